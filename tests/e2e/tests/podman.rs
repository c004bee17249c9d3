//! Real Podman, with the program as its OCI runtime. The same holds with runc, but for
//! what only a machine has.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use bulkhead_e2e::{
    Answer, GuideCommand, PODMAN_IMAGE, POLITE, Person, Podman, accelerator, arguments, follow,
    guide, host_kernel, in_machine, nothing_is_left, processes, program, remove_cgroup, soon,
};

fn leaves_nothing(podman: &Podman) {
    nothing_is_left(Duration::from_secs(20), || podman.leftovers());
}

#[test]
fn a_container_lives_as_with_any_other_runtime() {
    let podman = Podman::start();
    podman.begin("web", &["--network", "none"], POLITE);

    let kernel = podman.exec("web", "uname -r");
    assert_eq!(kernel.code, 0, "{kernel:?}");
    assert_eq!(kernel.out != host_kernel(), in_machine(), "{kernel:?}");
    assert_eq!(podman.exec("web", "exit 7").code, 7);
    assert_eq!(podman.fact("web", "{{.State.Status}}"), "running");

    // Files go in and come out while it runs.
    let file = podman.path().join("file").display().to_string();
    std::fs::write(&file, "from outside").unwrap();
    assert_eq!(podman.podman(&["cp", &file, "web:/etc/file"]).code, 0);
    assert_eq!(podman.exec("web", "cat /etc/file").out, "from outside");
    assert_eq!(podman.exec("web", "echo inside > /home/file").code, 0);
    assert_eq!(podman.podman(&["cp", "web:/home/file", &file]).code, 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "inside\n");

    assert_eq!(podman.podman(&["pause", "web"]).code, 0);
    assert_eq!(podman.fact("web", "{{.State.Status}}"), "paused");
    assert_eq!(podman.podman(&["unpause", "web"]).code, 0);

    assert_eq!(podman.podman(&["stop", "web"]).code, 0);
    assert_eq!(podman.fact("web", "{{.State.ExitCode}}"), "3");
    assert_eq!(podman.podman(&["logs", "web"]).out, "up\nbye");

    // It comes back with what it had.
    assert_eq!(podman.podman(&["start", "web"]).code, 0);
    let both = podman.exec("web", "cat /home/file /etc/file");
    assert_eq!(both.out, "inside\nfrom outside");
    assert_eq!(podman.podman(&["kill", "web"]).code, 0);
    soon("killed", || {
        podman.fact("web", "{{.State.ExitCode}}") == "137"
    });

    let diff = podman.podman(&["diff", "web"]).out;
    assert!(diff.contains("A /home/file"), "{diff}");
    let copy = ["commit", "--quiet", "web", "localhost/copy:1"];
    assert_eq!(podman.podman(&copy).code, 0);
    assert_eq!(podman.podman(&["rm", "web"]).code, 0);
    let words = [
        "run",
        "--rm",
        "--network",
        "none",
        "localhost/copy:1",
        "cat",
        "/home/file",
    ];
    assert_eq!(podman.podman(&words).out, "inside");
    leaves_nothing(&podman);
}

#[test]
fn what_cannot_run_says_so_with_podmans_codes() {
    let podman = Podman::start();
    let run = |options: &[&str], command: &str| {
        let words = [
            &["run", "--rm", "--network", "none"],
            options,
            &[PODMAN_IMAGE, command],
        ];
        podman.podman(&words.concat())
    };
    assert_eq!(run(&[], "/nowhere").code, 127);
    assert_eq!(run(&[], "nowhere").code, 127);
    assert_eq!(run(&[], "/etc").code, 126);
    podman.begin("other", &[], "sleep 1000");
    assert_eq!(podman.podman(&["exec", "other", "/nowhere"]).code, 127);
    assert_eq!(podman.podman(&["exec", "other", "/etc"]).code, 126);
    if in_machine() {
        for option in ["--network=host", "--pid=host", "--ipc=host"] {
            let refused = podman.podman(&["run", "--rm", option, PODMAN_IMAGE, "true"]);
            assert_eq!(refused.code, 126, "{refused:?}");
            assert!(refused.err.contains("a kernel of its own"), "{refused:?}");
            assert!(refused.err.contains(option), "{refused:?}");
        }
        let words = ["run", "--rm", "--pid=container:other", PODMAN_IMAGE, "true"];
        let refused = podman.podman(&words);
        assert!(refused.err.contains("--network=container:"), "{refused:?}");
    }
    assert_eq!(
        podman
            .podman(&["rm", "--force", "--time", "0", "other"])
            .code,
        0
    );
    leaves_nothing(&podman);
}

#[test]
fn streams_arrive_whole_and_a_terminal_is_one() {
    let podman = Podman::start();
    let words = podman.words(
        "run",
        &["--rm", "--interactive", "--network", "none"],
        "wc -c",
    );
    let mut counting = podman.command(&words);
    let mut counting = counting
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = counting.stdin.take().unwrap();
    for _ in 0..64 {
        input.write_all(&[b'x'; 1 << 16]).unwrap();
    }
    drop(input);
    let counted = counting.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&counted.stdout).trim(), "4194304");

    let both = podman.run(&[], "echo out; echo error >&2; head -c 3000000 /dev/zero");
    assert_eq!(both.out.len(), 3_000_004);
    assert_eq!(both.err, "error\n");

    let words = podman.words("run", &["--rm", "-it", "--network", "none"], "exec sh");
    let mut person = Person::starts(&podman.command(&words));
    person.tries_a_shell();
    person.types("exit 5\n");
    assert_eq!(person.ends(), Some(5));

    podman.begin("shell", &[], "sleep 1000");
    let mut person = Person::starts(&podman.command(&["exec", "-it", "shell", "sh"]));
    person.types("tty && echo $((50 + 5))\n");
    person.sees("55");
    person.types("exit 6\n");
    assert_eq!(person.ends(), Some(6));
}

#[test]
fn each_step_of_a_build_has_a_kernel_of_its_own() {
    let podman = Podman::start();
    let dir = podman.path().join("build");
    std::fs::create_dir(&dir).unwrap();
    let recipe = format!(
        "FROM {PODMAN_IMAGE}\nRUN uname -r > /kernel && mkdir /own && chown 7:8 /own\nRUN test -s /kernel\n"
    );
    std::fs::write(dir.join("Containerfile"), recipe).unwrap();
    let dir = dir.display().to_string();
    let words = [
        "build",
        "--network",
        "none",
        "--tag",
        "localhost/built:1",
        &dir,
    ];
    let built = podman.podman(&words);
    assert_eq!(built.code, 0, "{built:?}");
    let script = "cat /kernel; stat -c '%u %g' /own";
    let words = [
        "run",
        "--rm",
        "--network",
        "none",
        "localhost/built:1",
        "sh",
        "-c",
        script,
    ];
    let seen = podman.podman(&words);
    let mut lines = seen.out.lines();
    assert_eq!(
        lines.next() != Some(&host_kernel()),
        in_machine(),
        "{seen:?}"
    );
    assert_eq!(lines.next(), Some("7 8"), "{seen:?}");
    leaves_nothing(&podman);
}

/// Of this boot; a kernel of one's own has its own.
const BOOT: &str = "cat /proc/sys/kernel/random/boot_id";

/// Makes the pod `pod`.
fn make_pod(podman: &Podman, options: &[&str]) {
    let create = ["pod", "create", "--name", "pod"];
    let group = ["--cgroup-parent", podman.group()];
    let infra = [
        "--infra-image",
        PODMAN_IMAGE,
        "--infra-command",
        "/bin/sleep 1000000",
    ];
    let created = podman.podman(&[&create[..], &group, &infra, options].concat());
    assert_eq!(created.code, 0, "{created:?}");
}

#[test]
fn containers_of_a_pod_share_a_machine_and_end_one_by_one() {
    let podman = Podman::start();
    make_pod(&podman, &["--share", "net,ipc,uts,pid"]);
    let begin = |name: &str, script: &str| {
        let words = ["run", "--detach", "--pod", "pod", "--name", name];
        let what = [PODMAN_IMAGE, "sh", "-c", script];
        let begun = podman.podman(&[&words[..], &what].concat());
        assert_eq!(begun.code, 0, "{begun:?}");
    };
    begin(
        "web",
        "mkdir /www; echo served > /www/file; httpd -f -p 80 -h /www",
    );
    begin("app", POLITE);
    let boot = podman.exec("web", BOOT).out;
    assert_eq!(podman.exec("app", BOOT).out, boot);
    let host = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(host.trim() != boot, in_machine());
    soon("it serves", || {
        podman.exec("app", "wget -q -O - http://localhost/file").out == "served"
    });
    // Files are each one's own, processes the pod's.
    assert_ne!(podman.exec("app", "ls /www").code, 0);
    assert!(podman.exec("app", "ps").out.contains("httpd"));

    let pid = podman.pid("web").to_string();
    let killed = Command::new("kill").args(["-9", &pid]).status();
    assert!(killed.unwrap().success());
    soon("one has ended", || {
        podman.fact("web", "{{.State.ExitCode}}") == "137"
    });
    soon("its processes too", || {
        !podman.exec("app", "ps").out.contains("httpd")
    });
    assert_eq!(podman.podman(&["start", "web"]).code, 0);
    assert_eq!(podman.exec("web", BOOT).out, boot);
    assert_eq!(podman.podman(&["pod", "stop", "pod"]).code, 0);
    assert_eq!(podman.fact("app", "{{.State.ExitCode}}"), "3");
    assert_eq!(podman.podman(&["pod", "rm", "--force", "pod"]).code, 0);
    // runc leaves the pod's group in hierarchies that account for nothing.
    if in_machine() {
        leaves_nothing(&podman);
    }
}

/// The machine of a pod ends with its first container. Podman waits five seconds for one
/// it has killed.
#[test]
fn a_pod_ends_with_its_first_container_and_comes_back() {
    if !in_machine() {
        return;
    }
    let podman = Podman::start();
    make_pod(&podman, &["--network", "none"]);
    let words = [
        "run",
        "--detach",
        "--pod",
        "pod",
        "--name",
        "app",
        PODMAN_IMAGE,
        "sleep",
        "1000",
    ];
    assert_eq!(podman.podman(&words).code, 0);
    let first = podman.podman(&["pod", "inspect", "--format", "{{.InfraContainerID}}", "pod"]);
    let stopped = podman.podman(&["stop", "--time", "0", &first.out]);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    soon("the others end with it", || {
        podman.fact("app", "{{.State.Status}}") == "exited"
    });
    assert_eq!(podman.podman(&["pod", "start", "pod"]).code, 0);
    assert_eq!(podman.exec("app", "echo well").out, "well");
    assert_eq!(
        podman
            .podman(&["pod", "rm", "--force", "--time", "0", "pod"])
            .code,
        0
    );
    leaves_nothing(&podman);
}

#[test]
fn a_process_of_exec_ends_with_what_stands_for_it() {
    let podman = Podman::start();
    podman.begin("own", &["--network", "none"], "sleep 1000");
    let exec = ["exec", "--detach", "own", "sleep", "4321"];
    assert_eq!(podman.podman(&exec).code, 0);
    let runs = || podman.exec("own", "ps").out.contains("sleep 4321");
    assert!(runs());
    let id = podman.fact("own", "{{.Id}}");
    let stands = |words: &str| match in_machine() {
        true => words.contains(&format!(r#""id":"{id}","exec":"exec-"#)),
        false => words == "sleep 4321",
    };
    let pid = processes(stands).into_iter().next().unwrap();
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(killed.unwrap().success());
    soon("it has ended", || !runs());
    assert_eq!(podman.fact("own", "{{.State.Status}}"), "running");
}

/// Whoever joins what stands for a container on the host is in the container's
/// namespaces, or in empty ones, and not in the host's.
#[test]
fn nobody_reaches_the_host_through_what_stands_for_a_container() {
    let podman = Podman::start();
    podman.begin("own", &[], "sleep 1000");
    let pid = podman.pid("own");
    for kind in ["net", "pid", "ipc", "uts", "mnt"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{kind}");
        let path = format!("/proc/self/ns/{kind}");
        let podmans = Answer::of(&mut podman.inside("readlink", &[&path])).out;
        assert_ne!(of(&pid.to_string()).to_string_lossy(), podmans, "{kind}");
    }
    let root = std::fs::read_dir(format!("/proc/{pid}/root")).unwrap();
    let names: Vec<_> = root.map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().any(|name| name == "home"), "{names:?}");
    assert!(
        !names.iter().any(|name| name == "boot" || name == "var"),
        "{names:?}"
    );
}

#[test]
fn whoever_is_killed_the_container_has_ended_and_nothing_is_left() {
    if !in_machine() {
        return;
    }
    let podman = Podman::start();
    for victim in ["stand-in", "shim", "qemu", "file-server"] {
        podman.begin("victim", &[], "sleep 1000");
        let pid = podman.processes().into_iter().find(|pid| {
            let name = arguments(*pid).into_iter().next().unwrap_or_default();
            name.contains(victim)
        });
        let pid = pid.unwrap().to_string();
        assert!(
            Command::new("kill")
                .args(["-9", &pid])
                .status()
                .unwrap()
                .success()
        );
        soon(victim, || {
            podman.fact("victim", "{{.State.Status}}") == "exited"
        });
        let code = podman.fact("victim", "{{.State.ExitCode}}");
        assert!(["137", "255"].contains(&code.as_str()), "{victim}: {code}");
        if victim == "qemu" {
            let log = podman.podman(&["logs", "victim"]).err;
            assert!(log.contains("virtual machine ended"), "{log}");
        }
        assert_eq!(podman.podman(&["rm", "victim"]).code, 0);
        leaves_nothing(&podman);
    }
}

#[test]
fn a_signal_to_what_stands_for_a_container_is_the_containers() {
    let podman = Podman::start();
    podman.begin("polite", &["--network", "none"], POLITE);
    soon("it is up", || {
        podman.podman(&["logs", "polite"]).out == "up"
    });
    let pid = podman.pid("polite").to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    soon("it has ended", || {
        podman.fact("polite", "{{.State.ExitCode}}") == "3"
    });
    assert_eq!(podman.podman(&["logs", "polite"]).out, "up\nbye");
}

/// `bulkhead node install` on a machine whose `/opt` and `/etc/containers` are the test's.
#[test]
fn a_machine_gets_the_runtime_by_name_and_gives_it_back() {
    if !in_machine() {
        return;
    }
    let podman = Podman::start();
    podman.has_its_own_machine();
    let there = |program: &str, args: &[&str]| podman.on_its_machine(program, args);
    let bulkhead = program().display().to_string();
    let before = there("find", &["/etc/containers", "/opt"]).out;

    let accelerator = format!("accelerator={}", accelerator());
    let emulated = ["--allow-emulation", "--set", &accelerator];
    let words = [&["node", "install", "--runtime", "podman"], &emulated[..]].concat();
    let installed = there(&bulkhead, &words);
    assert_eq!(installed.code, 0, "{installed:?}");
    assert!(installed.out.contains("`kata` ran"), "{installed:?}");
    let again = there(&bulkhead, &words);
    assert!(again.out.contains("nothing to change"), "{again:?}");

    let own = podman.words("run", &["--rm", "--network", "none"], "uname -r");
    let ran = there("podman", &[&["--runtime", "kata"], &own[..]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_ne!(ran.out, host_kernel(), "{ran:?}");
    let verified = there(&bulkhead, &["node", "verify", "--smoke"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    let launcher = there("sh", &["-c", "chmod 644 /opt/bulkhead/handlers/*/kata"]);
    assert_eq!(launcher.code, 0);
    assert_eq!(there(&bulkhead, &["node", "verify"]).code, 12);
    assert_eq!(there(&bulkhead, &words).code, 0);
    assert_eq!(there(&bulkhead, &["node", "verify"]).code, 0);

    let removed = there(&bulkhead, &["node", "uninstall"]);
    assert_eq!(removed.code, 0, "{removed:?}");
    assert_eq!(there("find", &["/etc/containers", "/opt"]).out, before);
    remove_trials();
}

/// The control groups Podman made for the installer's trials.
fn remove_trials() {
    remove_cgroup("libpod_parent/conmon");
    remove_cgroup("libpod_parent");
}

/// The commands of the guide.
const COMMANDS: [GuideCommand; 15] = [
    // The programs under test are built.
    ("cargo build --release", "test -x @PROGRAM", ""),
    (
        "target/release/bulkhead node install --runtime podman",
        "@PROGRAM node install --runtime podman --allow-emulation --set accelerator=@ACCEL",
        "`kata` ran",
    ),
    // There is no registry.
    (
        "podman --runtime kata run --rm docker.io/library/busybox uname -r",
        "podman tag localhost/busybox:1 docker.io/library/busybox && \
         podman --runtime kata run --cgroup-parent @GROUP --rm docker.io/library/busybox uname -r",
        "-bulkhead",
    ),
    (
        "podman --runtime kata run -d --name web -p 8080:80 docker.io/library/busybox httpd -f -p 80 \
         -h /etc",
        "podman --runtime kata run --cgroup-parent @GROUP -d --name web -p 8080:80 \
         docker.io/library/busybox httpd -f -p 80 -h /etc",
        "",
    ),
    ("podman exec web uname -r", "", "-bulkhead"),
    (
        "podman cp web:/etc/passwd ./",
        "podman cp web:/etc/passwd ./ && cat passwd",
        "root:",
    ),
    ("podman stop web", "podman stop --time 0 web", ""),
    ("podman start web", "", ""),
    ("podman logs web", "", ""),
    ("bulkhead pods", "@PROGRAM pods", "running"),
    (
        "bulkhead pods --timings",
        "@PROGRAM pods --timings",
        "kernel",
    ),
    ("bulkhead list", "@PROGRAM list", "running"),
    (
        "podman rm --force web",
        "podman rm --force --time 0 web",
        "",
    ),
    (
        "podman --runtime kata build --tag localhost/own:1 .",
        "printf 'FROM docker.io/library/busybox\\nRUN uname -r\\n' > Containerfile && \
         podman --runtime kata build --network none --tag localhost/own:1 .",
        "-bulkhead",
    ),
    (
        "target/release/bulkhead node uninstall",
        "@PROGRAM node uninstall",
        "removed",
    ),
];

#[test]
fn every_command_of_the_guide_does_what_it_says() {
    if !in_machine() {
        return;
    }
    let podman = Podman::start();
    podman.has_its_own_machine();
    let told = guide("podman");
    assert_eq!(told.len(), COMMANDS.len(), "{told:?}");
    let fill = |text: &str| {
        text.replace("@PROGRAM", &program().display().to_string())
            .replace("@GROUP", podman.group())
            .replace("@ACCEL", &accelerator())
    };
    follow(told, &COMMANDS, fill, |command| {
        let script = format!("cd {} && {command}", podman.path().display());
        podman.on_its_machine("sh", &["-c", &script])
    });
    remove_trials();
}

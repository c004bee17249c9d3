//! Real Docker, with the program as one of its runtimes.

use std::time::Duration;

use bulkhead_e2e::{
    DOCKER_IMAGE, Docker, POLITE, Person, host_kernel, in_machine, nothing_is_left,
};

#[test]
fn a_container_of_docker_lives_in_its_own_kernel() {
    let docker = Docker::start();
    let begun = docker.run(&["-d", "--name", "web"], &["sh", "-c", POLITE]);
    assert_eq!(begun.code, 0, "{begun:?}");
    let exec = |script: &str| docker.docker(&["exec", "web", "sh", "-c", script]);
    assert_eq!(exec("uname -r").out != host_kernel(), in_machine());
    assert_eq!(exec("exit 7").code, 7);
    // Made by a hook of docker's, or, from its version 28 on, after the machine.
    assert!(exec("ip -o addr show dev eth0").out.contains("10.66.0."));
    assert_eq!(exec("ping -c 1 -W 5 10.66.0.1 > /dev/null").code, 0);

    assert_eq!(exec("echo inside > /home/file").code, 0);
    let copied = docker.docker(&["cp", "web:/home/file", "-"]);
    assert!(copied.out.contains("inside"), "{copied:?}");
    assert_eq!(docker.docker(&["top", "web"]).code, 0);
    let stats = docker.docker(&["stats", "--no-stream", "--format", "{{.PIDs}}", "web"]);
    assert_ne!(stats.out, "0", "{stats:?}");
    assert_eq!(docker.docker(&["pause", "web"]).code, 0);
    assert_eq!(docker.docker(&["unpause", "web"]).code, 0);
    let limits = ["update", "--memory", "300m", "--memory-swap", "300m", "web"];
    assert_eq!(docker.docker(&limits).code, 0);

    assert_eq!(docker.docker(&["stop", "web"]).code, 0);
    let fact = |template: &str| docker.docker(&["inspect", "--format", template, "web"]).out;
    assert_eq!(fact("{{.State.ExitCode}}"), "3");
    assert_eq!(docker.docker(&["logs", "web"]).out, "up\nbye");
    assert_eq!(docker.docker(&["start", "web"]).code, 0);
    assert_eq!(exec("cat /home/file").out, "inside");
    assert_eq!(docker.docker(&["kill", "web"]).code, 0);
    assert_eq!(docker.docker(&["rm", "web"]).code, 0);
    nothing_is_left(Duration::from_secs(20), || docker.leftovers());
}

/// As `docker compose` makes them: networks of the user's, and names in them.
#[test]
fn containers_of_one_network_find_each_other_by_name() {
    let docker = Docker::start();
    for (name, subnet) in [("front", "10.67.0.0/24"), ("back", "10.68.0.0/24")] {
        let made = docker.docker(&["network", "create", "--subnet", subnet, name]);
        assert_eq!(made.code, 0, "{made:?}");
    }
    let serve = "mkdir /www; echo stock > /www/index.html; exec httpd -f -h /www -p 80";
    let begun = docker.run(
        &["-d", "--name", "store", "--network", "back"],
        &["sh", "-c", serve],
    );
    assert_eq!(begun.code, 0, "{begun:?}");
    let made = docker.create(
        &["--name", "shop", "--network", "front"],
        &["sleep", "1000"],
    );
    assert_eq!(made.code, 0, "{made:?}");
    for words in [
        &["network", "connect", "back", "shop"][..],
        &["start", "shop"],
    ] {
        let done = docker.docker(words);
        assert_eq!(done.code, 0, "{done:?}");
    }
    let exec = |script: &str| docker.docker(&["exec", "shop", "sh", "-c", script]);
    let addresses = exec("ip -o addr");
    for network in ["10.67.0.", "10.68.0."] {
        assert!(addresses.out.contains(network), "{addresses:?}");
    }
    // busybox has its own way to ask; by that of the C library, static, it crashes.
    let asked = "address=$(nslookup store | sed -n '/^Name/,$s/^Address[^:]*: *//p' | head -n 1)";
    let get = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc $address 80 | tail -n 1";
    let fetched = exec(&format!("{asked}; {get}"));
    assert_eq!(
        fetched.out,
        "stock",
        "{fetched:?} {:?}",
        exec("nslookup store")
    );
    // A name nobody has: docker answers, and soon.
    assert_ne!(exec("timeout 10 nslookup nobody.front").code, 143);
}

#[test]
fn docker_hears_why_something_cannot_run() {
    let docker = Docker::start();
    assert_eq!(docker.run(&["--rm"], &["/nowhere"]).code, 127);
    assert_eq!(docker.run(&["--rm"], &["/etc"]).code, 126);
    assert_eq!(docker.run(&["--rm"], &["sh", "-c", "exit 9"]).code, 9);
    let script = "head -c 2000000 /dev/zero; echo e >&2";
    let whole = docker.run(&["--rm"], &["sh", "-c", script]);
    assert_eq!((whole.out.len(), whole.err.as_str()), (2_000_000, "e\n"));
    if in_machine() {
        // Which Docker names by a path.
        let refused = docker.run(&["--rm", "--network", "host"], &["true"]);
        assert!(refused.err.contains("the host's own"), "{refused:?}");
        for option in ["--pid=host", "--ipc=host"] {
            let refused = docker.run(&["--rm", option], &["true"]);
            assert!(refused.err.contains(option), "{refused:?}");
        }
    }
}

#[test]
fn a_terminal_of_docker_is_one() {
    let docker = Docker::start();
    let runtime = if in_machine() { "kata" } else { "runc" };
    let words = [
        "run",
        "--rm",
        "-it",
        "--runtime",
        runtime,
        DOCKER_IMAGE,
        "sh",
    ];
    let mut person = Person::starts(&docker.command(&words));
    person.tries_a_shell();
    person.types("exit 5\n");
    assert_eq!(person.ends(), Some(5));
}

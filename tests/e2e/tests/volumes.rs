//! Host directories and files in a container, live both ways.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bulkhead_e2e::kubelet::PodDir;
use bulkhead_e2e::{Answer, Host, image};

/// The `--volume` argument that shows `source` at `target`.
fn volume(source: &Path, target: &str) -> String {
    format!("{}:{target}", source.display())
}

#[test]
fn what_is_written_on_one_side_is_there_on_the_other_at_once() {
    let host = Host::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("greeting"), "from the host").unwrap();
    let option = volume(dir.path(), "/data");
    host.start("box", &["--network", "none", "-v", &option], "sleep 600");
    let inside = |script: &str| host.bulkhead(&["exec", "box", "sh", "-c", script]);
    assert_eq!(inside("cat /data/greeting").out, "from the host");
    for turn in 0..5 {
        let text = format!("turn {turn}");
        std::fs::write(dir.path().join("greeting"), &text).unwrap();
        assert_eq!(inside("cat /data/greeting").out, text);
        std::fs::write(dir.path().join(format!("new{turn}")), "").unwrap();
        assert_eq!(inside(&format!("ls /data/new{turn}")).code, 0);
    }
    let answer = inside("echo from the guest > /data/answer; chown 7:8 /data/answer");
    assert_eq!(answer.code, 0, "{answer:?}");
    let answer = dir.path().join("answer");
    assert_eq!(
        std::fs::read_to_string(&answer).unwrap(),
        "from the guest\n"
    );
    let meta = answer.metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid()), (7, 8));
}

#[test]
fn what_is_written_survives_the_container() {
    let host = Host::new();
    let dir = tempfile::tempdir().unwrap();
    let option = volume(dir.path(), "/data");
    let write = "seq 1 200000 > /data/numbers; sha256sum < /data/numbers";
    let written = host.run(&["-v", &option], write);
    assert_eq!(written.code, 0, "{written:?}");
    let read = host.run(&["-v", &option], "sha256sum < /data/numbers");
    assert_eq!(read.out, written.out);
    host.settles();
}

#[test]
fn what_the_host_mounts_later_is_there_for_who_asks() {
    let mut mounts = PodDir::new("later");
    let dir = mounts.shared("dir");
    let late = dir.join("late");
    std::fs::create_dir(&late).unwrap();
    let host = Host::new();
    let (own, following) = (volume(&dir, "/own"), volume(&dir, "/following:rslave"));
    let volumes = ["--network", "none", "-v", &own, "-v", &following];
    host.start("box", &volumes, "sleep 600");
    let inside = |script: &str| host.bulkhead(&["exec", "box", "sh", "-c", script]);
    assert_eq!(inside("ls -A /own/late /following/late").code, 0);

    mounts.mounts(&late, "file");
    let comes = "for i in $(seq 50); do cat /following/late/file && exit; sleep 0.1; done";
    assert_eq!(inside(comes).out, "file");
    assert_eq!(inside("ls -A /own/late").out, "");
}

#[test]
fn read_only_is_refused_by_the_host_too() {
    let host = Host::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "kept").unwrap();
    let option = volume(dir.path(), "/data:ro");
    // Privileged, so that the guest's own protection can be taken away.
    let answer = host.run(
        &["--privileged", "-v", &option],
        "cat /data/file; mount -o remount,rw /data; mkdir /direct; \
         mount -t virtiofs volume0 /direct; rm /data/file /direct/file; \
         echo gone > /data/file; ls /data",
    );
    assert_eq!(answer.out, "keptfile", "{answer:?}");
    assert_eq!(
        std::fs::read_to_string(dir.path().join("file")).unwrap(),
        "kept"
    );
}

#[test]
fn one_file_can_be_shared_and_nothing_beside_it() {
    let host = Host::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config"), "colour=red\n").unwrap();
    std::fs::write(dir.path().join("secret"), "x").unwrap();
    let option = volume(&dir.path().join("config"), "/etc/app.conf");
    let answer = host.run(
        &["--privileged", "-v", &option],
        "cat /etc/app.conf; echo colour=blue > /etc/app.conf; \
         mkdir /all; mount -t virtiofs volume0 /all; ls /all /all/..",
    );
    assert!(answer.out.starts_with("colour=red"), "{answer:?}");
    assert!(!answer.out.contains("secret"), "{answer:?}");
    let text = std::fs::read_to_string(dir.path().join("config")).unwrap();
    assert_eq!(text, "colour=blue\n");
}

#[test]
fn a_hostile_guest_makes_no_device_and_leaves_no_tree() {
    let host = Host::new();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "x").unwrap();
    let dir = tempfile::tempdir().unwrap();
    symlink(outside.path(), dir.path().join("link")).unwrap();
    let option = volume(dir.path(), "/data");
    let script = "mknod /data/disk b 254 0; cat /data/link/secret; \
                  cat /data/../../secret; setcap x /data; touch /data/ok";
    let answer = host.run(&["--privileged", "-v", &option], script);
    assert!(answer.err.contains("mknod: /data/disk"), "{answer:?}");
    assert!(answer.out.is_empty(), "{answer:?}");
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["link", "ok"]);
}

#[test]
fn files_keep_owners_modes_links_and_attributes() {
    let host = Host::new();
    let dir = tempfile::tempdir().unwrap();
    let option = volume(dir.path(), "/data");
    let script = "cd /data && mkdir sub && echo x > sub/a && ln sub/a b && ln -s sub/a c && \
                  chmod 4751 b && mkfifo pipe && mv sub renamed && truncate -s 5G sparse && \
                  touch -d @1000000000 b && dd if=/dev/zero of=sync bs=4k count=3 conv=fsync \
                  2>/dev/null && stat -c '%h %a %Y' b";
    let answer = host.run(&["-v", &option], script);
    assert_eq!(answer.out, "2 4751 1000000000", "{answer:?}");
    let at = |name: &str| dir.path().join(name);
    assert_eq!(
        at("b").metadata().unwrap().ino(),
        at("renamed/a").metadata().unwrap().ino()
    );
    assert_eq!(at("b").metadata().unwrap().permissions().mode(), 0o104_751);
    assert_eq!(at("sparse").metadata().unwrap().len(), 5 << 30);
    assert!(at("sparse").metadata().unwrap().blocks() < 8);
    assert_eq!(at("c").read_link().unwrap(), Path::new("sub/a"));
}

#[test]
fn a_directory_is_a_root_filesystem() {
    let host = Host::new();
    let dir = tempfile::tempdir().unwrap();
    for name in ["bin", "proc", "sys", "dev", "etc"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", dir.path().join("bin/sh")).unwrap();
    let path = dir.path().display().to_string();
    let options = ["run", "--rm", "--network", "none", "--rootfs", &path];
    let script = ["sh", "-c", "echo $$; echo made > /made"];
    let answer = host.bulkhead(&[&options[..], &script[..]].concat());
    assert_eq!(answer.out, "1", "{answer:?}");
    assert_eq!(
        std::fs::read_to_string(dir.path().join("made")).unwrap(),
        "made\n"
    );
}

#[test]
fn sources_that_cannot_be_shared_are_named() {
    let host = Host::new();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let _socket = UnixListener::bind(at("socket")).unwrap();
    symlink("/etc", at("outside")).unwrap();
    let refused = |source: &Path, why: &str| {
        let answer = host.run(&["-v", &volume(source, "/data")], "true");
        assert_eq!(answer.code, 125, "{answer:?}");
        assert!(answer.err.contains(why), "{answer:?}");
        assert!(
            answer.err.contains(&source.display().to_string()),
            "{answer:?}"
        );
    };
    refused(&at("socket"), "is a socket");
    refused(Path::new("/dev/null"), "is a device");
    refused(&at("missing"), "create it first");
    refused(&at("outside"), "leads out of its directory (to `/etc`)");
    assert!(host.leftovers().is_empty());
    host.settles();
}

#[test]
fn a_caller_without_root_needs_to_be_able_to_read_the_source() {
    let dir = tempfile::tempdir().unwrap();
    let closed = dir.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    let host = Host::new();
    for path in [host.path(), dir.path()] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
    }
    let command = host.command(&[
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        &volume(&closed, "/data"),
        &image(),
        "true",
    ]);
    let answer = without_root(&command);
    assert_eq!(answer.code, 125, "{answer:?}");
    assert!(answer.err.contains("ermission denied"), "{answer:?}");
    assert!(answer.err.contains("/closed"), "{answer:?}");
}

#[test]
fn a_caller_without_root_shares_what_is_its_own_and_owns_what_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("mine"), "mine").unwrap();
    for path in [own.clone(), own.join("mine")] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let host = Host::new();
    for path in [host.path(), dir.path()] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
    }
    let (open, closed) = (volume(&own, "/data"), volume(&own, "/closed:ro"));
    let script = "id -u; cat /data/mine; echo; echo back > /data/new; stat -c %u /data/new; \
                  chown 5 /data/new || echo kept; echo x > /closed/x || echo refused";
    let image = image();
    let start = ["run", "--rm", "--network", "none"];
    let volumes = ["-v", &open, "-v", &closed, &image, "sh", "-c", script];
    let answer = without_root(&host.command(&[&start[..], &volumes].concat()));
    assert_eq!(answer.out, "0\nmine\n0\nkept\nrefused", "{answer:?}");
    let meta = std::fs::metadata(own.join("new")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (NOBODY, NOBODY));
    assert!(!own.join("x").exists());
    host.settles();
}

#[test]
fn what_only_root_may_do_is_told_with_the_way_out() {
    let host = Host::new();
    std::fs::set_permissions(host.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let image = image();
    for (option, value, hint) in [
        ("--publish", "81:80", "1024 or higher"),
        ("--network", "ns:/proc/1/ns/net", "as root"),
    ] {
        let command = host.command(&["run", "--rm", option, value, &image, "true"]);
        let answer = without_root(&command);
        assert_eq!(answer.code, 125, "{answer:?}");
        assert!(answer.err.contains(hint), "{answer:?}");
    }
}

const NOBODY: u32 = 65534;

/// Runs a command as an ordinary user, who finds the guests that root has built; the
/// program is where everybody may read, wherever it was built.
fn without_root(command: &Command) -> Answer {
    let dir = tempfile::tempdir().expect("a directory can be made");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))
        .expect("it is this test's own");
    let program = dir.path().join("bulkhead");
    std::fs::copy(command.get_program(), &program).expect("the program can be copied");
    let mut unprivileged = Command::new("setpriv");
    let environment = command.get_envs();
    unprivileged
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program)
        .args(command.get_args())
        .envs(environment.filter_map(|(key, value)| Some((key, value?))));
    Answer::of(&mut unprivileged)
}

#[test]
fn a_dead_file_server_ends_the_container_and_is_named() {
    let host = Host::new();
    let dir = tempfile::tempdir().unwrap();
    let option = volume(dir.path(), "/data");
    host.start("box", &["--network", "none", "-v", &option], "sleep 600");
    let vmm = host.state("box")["supervisor_pid"].as_u64().unwrap();
    let children =
        std::fs::read_to_string(format!("/proc/{vmm}/task/{vmm}/children")).unwrap_or_default();
    let server = children.split_whitespace().find(|pid| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.starts_with(b"bulkhead-file-server"))
    });
    bulkhead_e2e::tool("kill", &["-9", server.unwrap()]);
    let killed = Instant::now();
    while host.state("box")["status"] != "exited" {
        assert!(killed.elapsed() < Duration::from_secs(1));
    }
    let state = host.state("box");
    let reason = state["reason"].as_str().unwrap();
    let expected = format!(
        "the file server of `{}` was killed by signal 9",
        dir.path().display()
    );
    assert_eq!(reason, expected);
    assert_eq!(state["exit_code"], 255);
    host.settles();
}

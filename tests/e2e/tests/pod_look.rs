//! Looking into pods from their host: `bulkhead exec`, `logs`, `ps`, `debug`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use bulkhead_e2e::{Answer, Container, Node, Pod, in_machine};

/// Runs `bulkhead` with an input.
fn bulkhead_with(args: &[&str], input: &str) -> Answer {
    let mut command = Command::new(bulkhead_e2e::program());
    command.args(args);
    Answer::to(input.as_bytes(), &mut command)
}

fn bulkhead(args: &[&str]) -> Answer {
    bulkhead_with(args, "")
}

/// Starts a container whose log is where the kubelet has it.
async fn start<'a>(node: &Node, pod: &'a Pod<'_>, name: &str, script: &str) -> Container<'a> {
    let logs = node.path().join("logs/look").join(name);
    std::fs::create_dir_all(logs).unwrap();
    let path = format!("{name}/0.log");
    pod.start_with(name, script, |config| config.log_path = path)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_pod_is_looked_into_from_its_host() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let pod = node.pod("look").await;
    let app = start(&node, &pod, "app", "echo one; echo two >&2; sleep 1000").await;
    let slow = "echo first; sleep 2; echo last";
    let short = start(&node, &pod, "short", slow).await;

    // Its output while it runs, and until it ends.
    let seen = bulkhead(&["logs", "look/app"]);
    assert_eq!((seen.out.as_str(), seen.err.as_str()), ("one", "two\n"));
    let seen = bulkhead(&["logs", "--follow", "default/look/short"]);
    assert_eq!(seen.out, "first\nlast");
    short.ended().await;

    // A process beside the only container that runs, by its input, its exit
    // code, its user, its terminal.
    let seen = bulkhead_with(&["exec", "-i", "look", "sh", "-c", "cat; exit 7"], "in\n");
    assert_eq!((seen.code, seen.out.as_str()), (7, "in"));
    let seen = bulkhead(&["exec", "-u", "web", "-e", "A=b", &app.id[..12], "id"]);
    assert_eq!(seen.code, 125, "a container alone is no pod: {seen:?}");
    let named = format!("{}/{}", &pod.id[..12], &app.id[..12]);
    let seen = bulkhead(&["exec", "-u", "web", &named, "sh", "-c", "id -u; id -G"]);
    assert_eq!(seen.out, "33\n34 50");
    let seen = bulkhead(&["exec", "-t", "look/app", "tty"]);
    assert!(seen.out.starts_with("/dev/pts/"), "{seen:?}");
    assert_eq!(bulkhead(&["exec", "look/app", "nothing"]).code, 127);
    let seen = bulkhead(&["exec", "look/nobody", "true"]);
    assert!(seen.err.contains("no container `nobody`"), "{seen:?}");
    let seen = bulkhead(&["ps", "--all", "look"]);
    assert!(seen.out.contains("app   running"), "{seen:?}");
    let seen = bulkhead(&["pods", "--timings", "default/look"]);
    assert!(seen.out.contains("kernel"), "{seen:?}");

    // Files, whoever the container runs as and whatever its image lacks.
    let dir = tempfile::tempdir().unwrap();
    let here = |name: &str| dir.path().join(name).display().to_string();
    std::fs::create_dir(here("tree")).unwrap();
    std::fs::write(here("tree/file"), "from the host").unwrap();
    let cp = |from: &str, to: &str| bulkhead(&["cp", from, to]);
    assert_eq!(cp(&here("tree"), "look/app:/home").code, 0);
    assert_eq!(app.exec("cat /home/tree/file").await.out, "from the host");
    assert_eq!(app.exec("echo back > /home/tree/more").await.code, 0);
    let seen = cp("default/look/app:/home/tree", &here("copy"));
    assert_eq!(seen.code, 0, "{seen:?}");
    assert_eq!(
        std::fs::read_to_string(here("copy/more")).unwrap(),
        "back\n"
    );
    let seen = cp("look/app:/nowhere", &here("nothing"));
    assert!(seen.code != 0 && seen.err.contains("/nowhere"), "{seen:?}");

    // The guest itself: its agent, and everybody's processes.
    let look = "cat /proc/1/comm; ps | grep -c 'sleep 100[0]'; ip link | grep -c eth0; \
                mknod /kmsg c 1 11 && echo '<0>look at me' > /kmsg; exit 3";
    let seen = bulkhead(&["debug", "look", "sh", "-c", look]);
    assert_eq!(seen.code, 3, "{seen:?}");
    let lines: Vec<&str> = seen.out.lines().collect();
    assert!(
        lines.len() == 3 && lines[1] != "0" && lines[2] != "0",
        "{seen:?}"
    );
    let seen = bulkhead_with(&["debug", "look"], "echo shell $$\n");
    assert!(seen.out.starts_with("shell "), "{seen:?}");
    let tools = node.path().join("busybox/root").display().to_string();
    let seen = bulkhead(&["debug", "--tools", &tools, "look", "cat", "/etc/passwd"]);
    assert!(seen.out.contains("web:x:33"), "{seen:?}");
    let store = tempfile::tempdir().unwrap();
    let store = store.path().display().to_string();
    let image = format!("oci:{}:latest", node.path().join("busybox/image").display());
    let look = "cat /etc/group; ps | grep -c 'sleep 100[0]'; echo x > /x && cat /x";
    let debug = [
        "--root", &store, "debug", "--image", &image, "look", "sh", "-c", look,
    ];
    let seen = bulkhead(&debug);
    assert!(seen.out.contains("logs:x:50:web"), "{seen:?}");
    let lines: Vec<&str> = seen.out.lines().collect();
    assert!(lines[2] != "0" && lines[3] == "x", "{seen:?}");
    // What it took is given back.
    let seen = bulkhead(&[
        "debug",
        "look",
        "sh",
        "-c",
        "cat /sys/block/loop*/loop/backing_file",
    ]);
    assert!(seen.code != 0, "{seen:?}");
    let seen = bulkhead(&["debug", "--console", "look"]);
    assert!(seen.out.contains("look at me"), "{seen:?}");

    // Nothing of it is a container of the pod, and nobody else may come in.
    assert_eq!(app.exec("ls / | grep -c kmsg").await.out, "0");
    for entry in std::fs::read_dir("/run/bulkhead/pods").unwrap() {
        let path = entry.unwrap().path().join("control.sock");
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    pod.remove().await.unwrap();
    node.no_shims().await;
}

#[tokio::test]
async fn the_configuration_can_forbid_to_look_into_a_guest() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let mut settings = std::fs::File::options()
        .append(true)
        .open(node.path().join("bulkhead.toml"))
        .unwrap();
    settings.write_all(b"debug = false\n").unwrap();
    let pod = node.pod("closed").await;
    let app = pod.start("app", "sleep 1000").await;
    for args in [
        &["debug", "closed", "id"][..],
        &["debug", "--console", "closed"],
    ] {
        let seen = bulkhead(args);
        assert_eq!(seen.code, 125);
        assert!(seen.err.contains("`debug = false`"), "{seen:?}");
    }
    assert_eq!(
        bulkhead(&["exec", "closed/app", "echo", "well"]).out,
        "well"
    );
    assert_eq!(app.exec("echo well").await.out, "well");
    pod.remove().await.unwrap();
}

#[tokio::test]
async fn a_quiet_pod_writes_nothing_to_the_log() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let phases = || node.log().matches("started phase=").count();
    let pod = node.pod("loud").await;
    pod.start("app", "true").await;
    pod.remove().await.unwrap();
    let said = phases();
    assert!(said > 0, "{}", node.log());
    let settings = node.path().join("bulkhead.toml");
    let text = std::fs::read_to_string(&settings).unwrap() + "log_level = \"error\"\n";
    std::fs::write(&settings, text).unwrap();
    let pod = node.pod("quiet").await;
    pod.start("app", "true").await;
    pod.remove().await.unwrap();
    assert_eq!(phases(), said);
}

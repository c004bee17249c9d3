//! Bulkhead gets onto a node, stays there, and goes, by its own commands.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead_e2e::Node;

/// The version the handler has, from the answer in JSON.
fn version(answer: &bulkhead_e2e::Answer) -> String {
    let report: serde_json::Value = serde_json::from_str(&answer.out).expect(&answer.err);
    report["version"].as_str().unwrap().to_owned()
}

async fn install(node: &Node, args: &[&str]) -> String {
    let answer = node.bulkhead("install", &[&["--format", "json"], args].concat());
    assert_eq!(answer.code, 0, "{answer:?}\n{}", node.log());
    node.answers().await;
    version(&answer)
}

/// Another payload: an installed version with one more file.
fn next_payload(node: &Node, version: &str) -> PathBuf {
    let to = node.path().join("payload");
    let from = node.host().join("opt/bulkhead/versions").join(version);
    let copied = Command::new("cp").arg("-r").arg(from).arg(&to).status();
    assert!(copied.unwrap().success());
    std::fs::remove_file(to.join("manifest.json")).unwrap();
    std::fs::write(to.join("NEWS"), "better\n").unwrap();
    to
}

fn runs(pid: u32, version: &str) -> bool {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    exe.starts_with(Path::new("/opt/bulkhead/versions").join(version))
        || exe.display().to_string().contains(version)
}

#[tokio::test]
async fn a_node_is_installed_upgraded_under_a_running_pod_and_left_as_it_was() {
    let node = Node::bare().await;
    let before = node.files();
    assert!(node.pod_with("early", |_| ()).await.is_err());

    let one = install(&node, &[]).await;
    assert_eq!(node.starts(), 2);
    assert_eq!(node.bulkhead("verify", &["--smoke"]).code, 0);
    let pod = node.pod("stays").await;
    let container = pod.start("worker", "sleep 1000").await;
    assert_ne!(
        container.exec("uname -r").await.out,
        bulkhead_e2e::host_kernel()
    );
    let old = node.shims();
    assert!(old.iter().all(|pid| runs(*pid, &one)), "{old:?}");
    // The same once more restarts nothing.
    assert_eq!(install(&node, &["--no-smoke"]).await, one);
    assert_eq!(node.starts(), 2);

    let payload = next_payload(&node, &one);
    let two = install(&node, &["--payload", &payload.display().to_string()]).await;
    assert_ne!(one, two);
    assert_eq!(
        node.shims(),
        old,
        "the pod has its shim, and the trial left none"
    );
    assert_eq!(container.exec("echo alive").await.out, "alive");
    // A container that comes later joins its pod's machine.
    let late = pod.start("late", "sleep 1000").await;
    assert_eq!(late.exec("hostname").await.out, "stays");
    let new_pod = node.pod("new").await;
    let new: Vec<u32> = node
        .shims()
        .into_iter()
        .filter(|pid| !old.contains(pid))
        .collect();
    assert!(new.len() == 1 && runs(new[0], &two), "{new:?}");

    let refused = node.bulkhead("uninstall", &[]);
    assert!(
        refused.code == 23 && refused.err.contains(&pod.id),
        "{refused:?}"
    );
    assert_eq!(node.bulkhead("verify", &[]).code, 0);
    new_pod.remove().await.unwrap();
    pod.remove().await.unwrap();
    let removed = node.bulkhead("uninstall", &[]);
    assert_eq!(removed.code, 0, "{removed:?}");
    assert_eq!(node.files(), before);
    assert_eq!(node.bulkhead("verify", &[]).code, 10);
}

#[tokio::test]
async fn a_version_whose_pods_do_not_run_is_taken_back() {
    let node = Node::bare().await;
    let one = install(&node, &[]).await;
    let good = node.files();
    let payload = next_payload(&node, &one);
    let shim = payload.join("containerd-shim-bulkhead-v2");
    std::fs::write(&shim, "#!/bin/sh\necho 'broken on purpose' >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&shim, PermissionsExt::from_mode(0o755)).unwrap();
    let args = ["--payload", &payload.display().to_string()];
    let failed = node.bulkhead("install", &args);
    assert_eq!(failed.code, 21, "{failed:?}");
    for part in [&one, "is in use again", "broken on purpose"] {
        assert!(failed.err.contains(part), "{failed:?}");
    }
    assert_eq!(node.files(), good);
    assert_eq!(node.bulkhead("verify", &["--smoke"]).code, 0);
}

#[tokio::test]
async fn an_installer_killed_in_the_restart_leaves_what_the_next_one_finishes() {
    let node = Node::bare().await;
    let before = node.files();
    let killer = node.path().join("killer");
    bulkhead_e2e::write_program(&killer, "#!/bin/sh\nkill -9 $PPID\n");
    let killer = killer.display().to_string();
    let kill = |verb: &str| {
        let answer = node.bulkhead_with(verb, &killer, &[]);
        assert_eq!(answer.code, -1, "{answer:?}");
        assert_eq!(node.bulkhead("verify", &[]).code, 11);
    };
    kill("install");
    assert_eq!(node.bulkhead("uninstall", &[]).code, 0);
    assert_eq!(node.files(), before);

    kill("install");
    install(&node, &[]).await;
    assert_eq!(node.bulkhead("verify", &[]).code, 0);
    kill("uninstall");
    assert_eq!(node.bulkhead("uninstall", &[]).code, 0);
    assert_eq!(node.files(), before);
}

#[tokio::test]
async fn a_configuration_containerd_does_not_take_is_refused_before_a_restart() {
    let node = Node::bare().await;
    let config = node.host().join("etc/containerd/config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    // Good TOML, which containerd does not start with.
    std::fs::write(
        &config,
        text.replace("[grpc]\n", "[grpc]\n  uid = \"root\"\n"),
    )
    .unwrap();
    let before = node.files();
    let refused = node.bulkhead("install", &[]);
    assert_eq!(refused.code, 21, "{refused:?}");
    assert!(refused.err.contains("does not take") && refused.err.contains("config.toml"));
    assert_eq!((node.files(), node.starts()), (before, 1));
}

/// Why our part is in the main file: with containerd 1, an imported file that
/// sets one handler throws out everything else of the CRI plugin.
#[test]
fn containerd_1_replaces_what_an_imported_file_adds_to() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let table = r#"[plugins."io.containerd.grpc.v1.cri".containerd.runtimes"#;
    let main = format!(
        "version = 2\nimports = [\"{}\"]\n{table}.foreign]\nruntime_type = \"x\"\n",
        at("own.toml").display()
    );
    std::fs::write(at("main.toml"), main).unwrap();
    std::fs::write(
        at("own.toml"),
        format!("version = 2\n{table}.kata]\nruntime_type = \"y\"\n"),
    )
    .unwrap();
    let dump = Command::new("containerd")
        .arg("--config")
        .arg(at("main.toml"))
        .args(["config", "dump"])
        .output()
        .unwrap();
    let text = String::from_utf8(dump.stdout).unwrap();
    let first = Command::new("containerd")
        .arg("--version")
        .output()
        .unwrap();
    if String::from_utf8_lossy(&first.stdout).contains(" 1.") {
        assert!(
            text.contains("runtimes.kata]") && !text.contains("runtimes.foreign]"),
            "{text}"
        );
    } else {
        assert!(text.contains("kata") && text.contains("foreign"), "{text}");
    }
}

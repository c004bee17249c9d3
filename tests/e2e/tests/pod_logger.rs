//! Output that a program of the host takes, as nerdctl has it.

use std::path::{Path, PathBuf};

use bulkhead_e2e::{Answer, Node, in_machine, write_program};

/// Keeps what it is given, and says so when it is ready.
const LOGGER: &str = r#"#!/bin/sh
echo "$CONTAINER_NAMESPACE $CONTAINER_ID $*" > @DIR/told
cat <&3 > @DIR/out 5>&- &
cat <&4 > @DIR/err 5>&- &
exec 5>&-
wait
echo done >> @DIR/told
"#;

fn logger(dir: &Path) -> PathBuf {
    let path = dir.join("logger");
    let text = LOGGER.replace("@DIR", &dir.display().to_string());
    write_program(&path, &text);
    path
}

/// Runs a container whose output goes to a program.
fn run(node: &Node, id: &str, address: &str, script: &str) -> Answer {
    let runtime = match in_machine() {
        true => "io.containerd.bulkhead.v2",
        false => "io.containerd.runc.v2",
    };
    let args = ["run", "--rm", "--runtime", runtime, "--log-uri", address];
    let what = ["localhost/busybox:1", id, "sh", "-c", script];
    node.ctr(&[&args[..], &what].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_takes_both_outputs_whole() {
    let node = Node::start().await;
    let dir = tempfile::tempdir().unwrap();
    let program = logger(dir.path());
    let address = format!("binary://{}?level=high", program.display());
    let script = "echo to out; echo to err >&2; head -c 3000000 /dev/zero | tr '\\0' x; exit 3";
    let ran = run(&node, "told", &address, script);
    assert_eq!(ran.code, 3, "{ran:?}");
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let told = read("told");
    assert!(told.starts_with("k8s.io told level high\n"), "{told}");
    // It could do what it had to; runc's shim ends it by SIGTERM.
    assert!(!in_machine() || told.ends_with("done\n"), "{told}");
    assert_eq!(read("err"), "to err\n");
    let out = read("out");
    assert!(out.starts_with("to out\nxxx"));
    assert_eq!(out.len(), 7 + 3_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_be_run_is_named_and_nothing_is_left() {
    let node = Node::start().await;
    let ran = run(&node, "lost", "binary:///no/such/logger", "echo lost");
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("/no/such/logger"), "{ran:?}");
    node.no_shims().await;
}

//! Containers on their own, without pods: containerd's `ctr`, and whoever speaks to
//! containerd as it does (nerdctl). Every test passes with runc too.

use bulkhead_e2e::{Answer, Node, in_machine, soon};

const IMAGE: &str = "localhost/busybox:1";

/// Which runtime, in `ctr`'s words.
fn runtime() -> [&'static str; 2] {
    let name = match in_machine() {
        true => "io.containerd.bulkhead.v2",
        false => "io.containerd.runc.v2",
    };
    ["--runtime", name]
}

fn run(node: &Node, options: &[&str], id: &str, script: &str) -> Answer {
    let what = [IMAGE, id, "sh", "-c", script];
    node.ctr(&[&["run"], &runtime()[..], options, &what].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_wrote_is_there_when_it_is_started_again() {
    let node = Node::start().await;
    for snapshotter in ["overlayfs", "native"] {
        let options = ["--detach", "--snapshotter", snapshotter];
        let begun = run(
            &node,
            &options,
            "own",
            "echo x >> /home/file; exec sleep 1000",
        );
        assert_eq!(begun.code, 0, "{begun:?}");
        let exec = |id: &str| {
            let words = ["task", "exec", "--exec-id", id, "own", "cat", "/home/file"];
            node.ctr(&words).out
        };
        soon("it writes", || exec("look") == "x");
        assert_eq!(node.ctr(&["task", "kill", "--signal", "9", "own"]).code, 0);
        soon("it ends", || {
            node.ctr(&["task", "ls"]).out.contains("STOPPED")
        });
        let _ = node.ctr(&["task", "rm", "own"]);
        let again = node.ctr(&["task", "start", "--detach", "own"]);
        assert_eq!(again.code, 0, "{again:?}");
        soon("it writes again", || exec("again") == "x\nx");
        assert_eq!(node.ctr(&["task", "rm", "--force", "own"]).code, 0);
        assert_eq!(node.ctr(&["container", "rm", "own"]).code, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_may_be_others_outside() {
    let node = Node::start().await;
    let maps = [
        "--rm",
        "--uidmap",
        "0:200000:1000",
        "--gidmap",
        "0:200000:1000",
    ];
    let script = "id -u; stat -c %u /; touch /own && stat -c %u /own";
    let ran = run(&node, &maps, "mapped", script);
    assert_eq!(ran.out, "0\n0\n0", "{ran:?}");
}

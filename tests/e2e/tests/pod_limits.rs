//! Limits of a pod's containers beside memory and processors, seen from inside:
//! they hold in the guest, against its own kernel.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use bulkhead_e2e::cri::ContainerConfig;
use bulkhead_e2e::{Node, OWN_GROUP, in_machine};
use containerd_shim_protos::api::UpdateTaskRequest;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use ttrpc::context::with_duration;

/// Forks until it may not.
const BOMB: &str = "for i in $(seq 60); do sleep 1000 & done; echo unlimited";

/// A limit by its file of control groups of version 2, as the CRI takes it.
fn unified(file: &str, value: &str) -> impl FnOnce(&mut ContainerConfig) + use<> {
    let limit = (file.to_owned(), value.to_owned());
    |config| {
        let linux = config.linux.as_mut().unwrap();
        linux.resources.as_mut().unwrap().unified = [limit].into();
    }
}

/// Reads a file of the container's control group.
fn group(file: &str) -> String {
    format!("cat {OWN_GROUP}/{file}")
}

#[tokio::test]
async fn a_container_that_forks_and_forks_ends_at_its_own_limit() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let pod = node.pod("bomb").await;
    let other = pod.start("other", "sleep 1000").await;

    // A limit set while it runs, as engines do it.
    let app = pod.start("app", "sleep 1000").await;
    let shim = Client::connect(&pod.shim_address()).await.unwrap();
    let update = UpdateTaskRequest {
        id: app.id.clone(),
        resources: MessageField::some(Any {
            value: br#"{"pids": {"limit": 12}}"#.to_vec(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let soon = with_duration(Duration::from_secs(30));
    TaskClient::new(shim).update(soon, &update).await.unwrap();
    let seen = app.exec(BOMB).await;
    assert!(seen.err.contains("fork"), "{seen:?}");
    assert_eq!(seen.out, "");

    // One it was made with.
    let limited = unified("pids.max", "12");
    let bomb = pod.start_with("bomb", BOMB, limited).await.unwrap();
    assert_ne!(bomb.ended().await.exit_code, 0);
    assert!(bomb.log().contains("fork"), "{}", bomb.log());
    assert!(!bomb.log().contains("unlimited"), "{}", bomb.log());
    assert_eq!(other.exec("echo well").await.out, "well");
    pod.remove().await.unwrap();
}

#[tokio::test]
async fn a_pod_that_forks_and_forks_ends_at_what_its_group_on_the_host_may_have() {
    let node = Node::start().await;
    // As a kubelet with `podPidsLimit`.
    let group = node.pod_group("pids");
    std::fs::write(group.join("pids.max"), "90").unwrap();
    let pod = node.pod("bomb").await;
    // Each alone has what fits, both together have not.
    let half = "for i in $(seq 50); do sleep 1000 & done; echo all; wait";
    let first = pod.start("first", half).await;
    first.says("stdout all", Duration::from_secs(30)).await;
    let second = pod.start("second", half).await;
    second.ended().await;
    assert!(second.log().contains("fork"), "{}", second.log());
    assert!(!second.log().contains("stdout all"), "{}", second.log());
    pod.remove().await.unwrap();
}

#[tokio::test]
async fn a_container_writes_no_faster_than_it_may() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let pod = node.pod("slow").await;
    // Which disk it writes to, by what it has written to it.
    let write = "dd if=/dev/zero of=/file bs=1M count=4 oflag=direct 2>/dev/null";
    let free = pod.start("free", "sleep 1000").await;
    assert_eq!(free.exec(write).await.code, 0);
    let counted = free.exec(&group("io.stat")).await.out;
    let written = |line: &&str| {
        let mut words = line.split_whitespace();
        let bytes = words.find_map(|word| word.strip_prefix("wbytes="));
        bytes.is_some_and(|bytes| bytes.parse::<u64>().unwrap() >= 4 << 20)
    };
    let disk = counted.lines().find(written).unwrap();
    let disk = disk.split(' ').next().unwrap();

    let limited = unified("io.max", &format!("{disk} wbps=1048576"));
    let slow = pod.start_with("slow", "sleep 1000", limited).await.unwrap();
    let holds = slow.exec(&group("io.max")).await.out;
    assert!(holds.starts_with(&format!("{disk} ")), "{holds}");
    assert!(holds.contains("wbps=1048576"), "{holds}");
    // Four MiB at one a second: the first may go at once.
    let uptime = "cut -d. -f1 /proc/uptime";
    let timed = format!("t=$({uptime}); {write}; echo $(($({uptime}) - t))");
    let took: u64 = slow.exec(&timed).await.out.parse().unwrap();
    assert!(took >= 2, "{took} s");
    pod.remove().await.unwrap();
}

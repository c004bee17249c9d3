//! What containerd is told of a container's processes and what they use.

use std::time::Duration;

use bulkhead_e2e::{Node, in_machine};
use containerd_shim_protos::api::StatsRequest;
use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use protobuf::Message;
use ttrpc::context::{Context, with_duration};

fn soon() -> Context {
    with_duration(Duration::from_secs(30))
}

#[tokio::test]
async fn a_tasks_processes_are_all_of_its_containers_and_no_others() {
    let node = Node::start().await;
    let pod = node.pod("many").await;
    let script = "sleep 1000 & sleep 1000 & sleep 1000 & echo ready; wait";
    let app = pod.start("app", script).await;
    let other = pod.start("other", "exec sleep 1000").await;
    app.says("stdout ready", Duration::from_secs(30)).await;
    // A line for each, below the one that says what they are.
    let pids = |id: &str| {
        let list = node.ctr(&["task", "ps", id]);
        assert_eq!(list.code, 0, "{list:?}");
        list.out.lines().count() - 1
    };
    assert_eq!((pids(&app.id), pids(&other.id)), (4, 1));
    assert_eq!(
        app.exec("kill $(pidof sleep | cut -d' ' -f1)").await.code,
        0
    );
    // The shell collects it: its group is empty of it when it is.
    let gone = "while [ $(pidof sleep | wc -w) -gt 2 ]; do :; done";
    assert_eq!(app.exec(gone).await.code, 0);
    assert_eq!((pids(&app.id), pids(&other.id)), (3, 1));
    pod.remove().await.unwrap();
}

#[tokio::test]
async fn what_a_container_uses_is_counted_by_its_own_kernel() {
    if !in_machine() {
        // Of a host with control groups of version 1 runc tells in their form.
        return;
    }
    let node = Node::start().await;
    let pod = node.pod("counted").await;
    let app = pod.start_with("app", "sleep 1000", |config| {
        let linux = config.linux.as_mut().unwrap();
        linux.resources.as_mut().unwrap().memory_limit_in_bytes = 64 << 20;
    });
    let app = app.await.unwrap();
    let work = "ping -c 3 -i 0.1 -W 5 10.88.0.1 > /dev/null && \
                dd if=/dev/zero of=/file bs=1M count=3 oflag=direct 2>/dev/null";
    assert_eq!(app.exec(work).await.code, 0);
    let task = TaskClient::new(Client::connect(&pod.shim_address()).await.unwrap());
    let request = StatsRequest {
        id: app.id.clone(),
        ..Default::default()
    };
    let stats = task.stats(soon(), &request).await.unwrap().stats.unwrap();
    assert_eq!(stats.type_url, "io.containerd.cgroups.v2.Metrics");
    let seen = Metrics::parse_from_bytes(&stats.value).unwrap();
    assert!((1..=2).contains(&seen.pids.current), "{seen}");
    assert_eq!(seen.memory.usage_limit, 64 << 20);
    assert!(seen.memory.usage > 0 && seen.memory.usage <= 64 << 20);
    assert!(seen.memory.max_usage >= seen.memory.usage, "{seen}");
    assert!(seen.cpu.usage_usec > 0, "{seen}");
    let written: u64 = seen.io.usage.iter().map(|disk| disk.wbytes).sum();
    assert!(written >= 3 << 20, "{seen}");
    let mut interfaces = seen.network.iter();
    let card = interfaces.find(|card| card.name == "eth0").unwrap();
    // Three questions and their answers.
    assert!(card.tx_packets >= 3 && card.rx_packets >= 3, "{seen}");
    assert!(card.tx_bytes >= 3 * 64 && card.rx_bytes >= 3 * 64, "{seen}");
    pod.remove().await.unwrap();
}

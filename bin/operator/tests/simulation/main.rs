//! A thousand nodes over real HTTP: the operator's own program, killed in the
//! middle of its writes again and again, against an API server that refuses,
//! delays and disconnects it, and agents that fail, lie and vanish.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod stage;
mod world;

use bulkhead_kataconfig::{FINALIZER, MEMBER_LABEL};

use stage::Stage;
use world::dice;

/// Machines.
const NODES: usize = 1000;
/// Of which so many may be out at one time.
const AT_MOST: usize = 20;
/// What all chances are drawn from; BULKHEAD_SEED gives another.
const SEED: u64 = 2026;

fn seed() -> u64 {
    let given = std::env::var("BULKHEAD_SEED").ok();
    given.map_or(SEED, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_nodes_live_through_a_bad_day_on_a_real_wire() {
    let seed = seed();
    println!("BULKHEAD_SEED={seed}");
    let stage = Stage::new(NODES, AT_MOST, seed).await;
    stage.trouble();
    let world = stage.world.clone();

    // Installed, while nodes come, go, and are not what they were.
    stage.apply("1.0.0", None).await;
    stage
        .until("the first hundred", |state| state.labelled.len() > 100)
        .await;
    let cut_off = ["node-0200", "node-0300", "node-0950", "node-0999"];
    cut_off.iter().for_each(|name| world.vanish(name));
    for name in ["node-0005", "node-0500", "node-0900"] {
        stage.remove_node(name).await;
    }
    for name in ["node-new-1", "node-new-2", "node-new-3"] {
        world.join(name);
    }
    stage
        .until("half of them", |state| state.labelled.len() > NODES / 2)
        .await;
    for name in ["node-0007", "node-0400", "node-0800"] {
        world.replace(name);
    }
    stage.at_rest("1.0.0", |_| true).await;
    cut_off.iter().for_each(|name| world.come_back(name));

    // Pods that run through all of it.
    let busy: Vec<String> = {
        let state = world.state();
        let labelled = state.labelled.iter();
        let some = labelled.filter(|name| dice(seed, &["pod", name]).is_multiple_of(25));
        some.cloned().collect()
    };
    assert!(busy.len() > 10, "{busy:?}");
    for node in &busy {
        world.run_pod(node, &format!("pod-of-{node}"));
    }
    stage.trouble();
    stage.apply("2.0.0", None).await;
    stage.at_rest("2.0.0", |_| true).await;

    // Half of the nodes are not wanted any more; pods keep theirs.
    stage.trouble();
    let wanted = |name: &str| !dice(seed, &["pool", name]).is_multiple_of(2);
    stage.apply("2.0.0", Some("odd")).await;
    let kept: Vec<&String> = busy.iter().filter(|name| !wanted(name)).collect();
    assert!(!kept.is_empty());
    stage
        .until("nodes that only pods keep", |state| {
            let installed = state
                .machines
                .iter()
                .filter(|(name, machine)| !wanted(name) && machine.installed.is_some());
            let installed: Vec<_> = installed.map(|(name, _)| name).collect();
            installed == kept
        })
        .await;
    for node in &busy {
        world.end_pod(node, &format!("pod-of-{node}"));
    }
    stage.at_rest("2.0.0", wanted).await;

    // And none of them.
    stage.trouble();
    stage.delete().await;
    stage
        .until("the end", |state| {
            let clean = state.machines.values().all(|m| m.installed.is_none());
            clean && state.config.is_none() && state.kata_nodes.is_empty()
        })
        .await;
    stage.is_quiet().await;
    assert!(
        stage
            .server
            .objects("node.k8s.io", "runtimeclasses")
            .is_empty()
    );
    let nodes = stage.server.objects("", "nodes");
    for node in &nodes {
        let text = node["metadata"].to_string();
        assert!(
            !text.contains(MEMBER_LABEL) && !text.contains(FINALIZER),
            "{text}"
        );
        assert!(
            !text.contains("kataconfiguration.openshift.io/runtime."),
            "{text}"
        );
    }
    let state = world.state();
    println!(
        "{} nodes; {} kills; {} failed tries; {} out at most; {} requests",
        nodes.len(),
        stage.kills(),
        state.failures,
        state.most,
        stage.requests().len()
    );
    assert_eq!(state.wrong, [""; 0]);
    assert!(state.failures > 20 && stage.kills() > 5, "a good day");
    assert!(state.most > AT_MOST / 2, "the bound was never near");
}

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::*;

fn kata_node(name: &str, version: &str, attempt: u32) -> KataNode {
    let mut node = KataNode {
        metadata: ObjectMeta {
            name: Some(name.into()),
            resource_version: Some(version.into()),
            ..ObjectMeta::default()
        },
        ..KataNode::default()
    };
    node.spec.attempt = attempt;
    node
}

fn listed(cluster: &mut Cluster, nodes: &[KataNode]) {
    cluster.hear(Heard::KataNode(Event::Init));
    for node in nodes {
        cluster.hear(Heard::KataNode(Event::InitApply(node.clone())));
    }
    cluster.hear(Heard::KataNode(Event::InitDone));
}

fn attempt(cluster: &Cluster) -> Option<u32> {
    cluster.kata_node("a").map(|node| node.spec.attempt)
}

#[test]
fn an_own_write_counts_before_the_watch_tells_of_it() {
    let mut cluster = Cluster::default();
    listed(&mut cluster, &[kata_node("a", "1", 1)]);
    cluster.wrote_kata_node(kata_node("a", "3", 3));
    assert_eq!(attempt(&cluster), Some(3));
    // What the watch tells is older than the write, and then is the write.
    cluster.hear(Heard::KataNode(Event::Apply(kata_node("a", "2", 2))));
    assert_eq!(attempt(&cluster), Some(3));
    cluster.hear(Heard::KataNode(Event::Apply(kata_node("a", "3", 3))));
    cluster.hear(Heard::KataNode(Event::Apply(kata_node("a", "4", 4))));
    assert_eq!(attempt(&cluster), Some(4));
}

#[test]
fn a_write_that_changed_nothing_makes_nobody_deaf() {
    let mut cluster = Cluster::default();
    listed(&mut cluster, &[kata_node("a", "1", 1)]);
    cluster.wrote_kata_node(kata_node("a", "1", 1));
    cluster.hear(Heard::KataNode(Event::Apply(kata_node("a", "2", 2))));
    assert_eq!(attempt(&cluster), Some(2));
}

#[test]
fn what_was_deleted_does_not_come_back_by_an_old_word() {
    let mut cluster = Cluster::default();
    listed(&mut cluster, &[kata_node("a", "1", 1)]);
    cluster.deleted_kata_node("a");
    cluster.hear(Heard::KataNode(Event::Apply(kata_node("a", "2", 2))));
    assert_eq!(attempt(&cluster), None);
    cluster.hear(Heard::KataNode(Event::Delete(kata_node("a", "3", 2))));
    cluster.hear(Heard::KataNode(Event::Apply(kata_node("a", "4", 4))));
    assert_eq!(attempt(&cluster), Some(4));
}

#[test]
fn a_new_list_replaces_everything_at_once() {
    let mut cluster = Cluster::default();
    listed(&mut cluster, &[kata_node("a", "1", 1)]);
    cluster.wrote_kata_node(kata_node("a", "3", 3));
    cluster.hear(Heard::KataNode(Event::Init));
    assert_eq!(
        attempt(&cluster),
        Some(3),
        "nothing is lost while a list comes in"
    );
    cluster.hear(Heard::KataNode(Event::InitDone));
    assert_eq!(attempt(&cluster), None);
}

/// What deafened an operator: a write between the beginning of a list and its
/// end is in the list, and no watch tells of it any more.
#[test]
fn nothing_is_decided_while_a_list_is_under_way() {
    let mut cluster = Cluster::default();
    everything(&mut cluster);
    assert!(cluster.settled());
    cluster.hear(Heard::KataNode(Event::Init));
    assert!(cluster.complete() && !cluster.settled());
    cluster.hear(Heard::Pod(Event::Init));
    cluster.hear(Heard::KataNode(Event::InitDone));
    assert!(!cluster.settled(), "pods are still counted");
    cluster.hear(Heard::Pod(Event::InitDone));
    assert!(cluster.settled());
}

fn everything(cluster: &mut Cluster) {
    listed(cluster, &[]);
    cluster.hear(Heard::Config(Event::Init));
    cluster.hear(Heard::Config(Event::InitDone));
    cluster.hear(Heard::Node(Event::Init));
    cluster.hear(Heard::Node(Event::InitDone));
    cluster.hear(Heard::Class(Event::Init));
    cluster.hear(Heard::Class(Event::InitDone));
    cluster.hear(Heard::Pod(Event::Init));
    cluster.hear(Heard::Pod(Event::InitDone));
    cluster.hear(Heard::Definition(Event::Init));
    cluster.hear(Heard::Definition(Event::InitDone));
}

#[test]
fn only_live_pods_with_a_runtime_class_are_kept() {
    let mut cluster = Cluster::default();
    let pod = |name: &str, class: Option<&str>, phase: &str| -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name},
            "spec": {"runtimeClassName": class, "nodeName": "a", "containers": []},
            "status": {"phase": phase},
        }))
        .unwrap()
    };
    for pod in [
        pod("runs", Some("kata"), "Running"),
        pod("plain", None, "Running"),
        pod("ended", Some("kata"), "Succeeded"),
        pod("ends", Some("kata"), "Running"),
        pod("ends", Some("kata"), "Failed"),
    ] {
        cluster.hear(Heard::Pod(Event::Apply(pod)));
    }
    let mut snapshot = Snapshot::default();
    cluster.lend(&mut snapshot);
    let names: Vec<_> = snapshot.pods["a"]
        .iter()
        .map(|pod| pod.name.as_str())
        .collect();
    assert_eq!(names, ["runs"]);
}

#[test]
fn nothing_is_decided_before_everything_is_known() {
    let mut cluster = Cluster::default();
    listed(&mut cluster, &[]);
    assert!(!cluster.complete());
}

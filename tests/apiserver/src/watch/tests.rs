use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::resource::Resource;

fn cluster() -> (Cluster, Target) {
    let cluster = Cluster::new(100);
    let resource: &Arc<Resource> = cluster.registry.find("", "v1", "configmaps").unwrap();
    let target = Target {
        resource: Arc::clone(resource),
        namespace: "default".into(),
        name: String::new(),
        subresource: String::new(),
    };
    (cluster, target)
}

fn map(name: &str, namespace: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name, "namespace": namespace },
    })
}

fn told(events: &[Value]) -> Vec<(&str, &str)> {
    events
        .iter()
        .map(|event| {
            let kind = event["type"].as_str().unwrap();
            (
                kind,
                event["object"]["metadata"]["name"].as_str().unwrap_or(""),
            )
        })
        .collect()
}

fn begin(cluster: &Cluster, target: &Target, query: &str) -> (Watch, Vec<Value>) {
    let query = Query::parse(query).unwrap();
    Watch::begin(cluster, target, &query, Form::Whole).unwrap()
}

#[test]
fn a_watch_from_nowhere_begins_with_what_there_is() {
    let (mut cluster, target) = cluster();
    cluster.load(map("a", "default")).unwrap();
    cluster.load(map("b", "kube-system")).unwrap();
    let (mut watch, events) = begin(&cluster, &target, "watch=1");
    assert_eq!(told(&events), [("ADDED", "a")]);
    cluster.load(map("c", "default")).unwrap();
    cluster.load(map("d", "kube-system")).unwrap();
    assert_eq!(told(&watch.next(&cluster).unwrap()), [("ADDED", "c")]);
    assert_eq!(told(&watch.next(&cluster).unwrap()), []);
}

#[test]
fn a_streamed_list_says_where_it_ends() {
    let (mut cluster, target) = cluster();
    cluster.load(map("a", "default")).unwrap();
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&\
                 allowWatchBookmarks=true";
    let (_, events) = begin(&cluster, &target, query);
    assert_eq!(told(&events), [("ADDED", "a"), ("BOOKMARK", "")]);
    let about = &events[1]["object"]["metadata"];
    assert_eq!(about["annotations"], json!({ INITIAL_END: "true" }));
    assert_eq!(
        about["resourceVersion"],
        cluster.store.version().to_string()
    );
    let alone = Query::parse("watch=1&sendInitialEvents=true").unwrap();
    let refused = Watch::begin(&cluster, &target, &alone, Form::Whole).unwrap_err();
    assert_eq!(refused.code, 422);
}

#[test]
fn a_watch_of_what_is_forgotten_is_told_so() {
    let (mut cluster, target) = cluster();
    let before = cluster.store.version();
    cluster.load(map("a", "default")).unwrap();
    let (mut running, _) = begin(&cluster, &target, "watch=1");
    cluster.store.forget();
    assert_eq!(running.next(&cluster).unwrap_err().code, 410);
    let (mut late, _) = begin(
        &cluster,
        &target,
        &format!("watch=1&resourceVersion={before}"),
    );
    let failure = late.next(&cluster).unwrap_err();
    assert_eq!((failure.code, failure.reason), (410, "Expired"));
    assert_eq!(error(&failure)["object"]["kind"], "Status");
}

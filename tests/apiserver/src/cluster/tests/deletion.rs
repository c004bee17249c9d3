use serde_json::json;

use super::super::*;
use super::{at, definition, map, query};

fn owned(name: &str, owners: &[&Value], blocks: bool) -> Value {
    let mut object = map(name);
    let references: Vec<_> = owners
        .iter()
        .map(|owner| {
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "name": crate::object::name(owner),
                "uid": crate::object::uid(owner), "blockOwnerDeletion": blocks,
            })
        })
        .collect();
    object["metadata"]["ownerReferences"] = json!(references);
    object
}

fn names(cluster: &Cluster) -> Vec<String> {
    let target = at(cluster, "configmaps", "default", "");
    let page = cluster.list(&target, &Query::default()).unwrap();
    page.items
        .iter()
        .map(|item| crate::object::name(item).to_owned())
        .collect()
}

fn delete(cluster: &mut Cluster, name: &str, how: &str) -> Deleted {
    let target = at(cluster, "configmaps", "default", name);
    cluster.delete(&target, &Value::Null, &query(how)).unwrap()
}

#[test]
fn what_is_owned_goes_with_its_last_owner() {
    let mut cluster = Cluster::new(100);
    let a = cluster.load(map("a")).unwrap();
    let b = cluster.load(map("b")).unwrap();
    let c = cluster.load(owned("c", &[&a, &b], false)).unwrap();
    cluster.load(owned("d", &[&c], false)).unwrap();
    delete(&mut cluster, "a", "");
    assert_eq!(names(&cluster), ["b", "c", "d"]);
    let left = cluster
        .get(&at(&cluster, "configmaps", "default", "c"))
        .unwrap();
    assert_eq!(crate::object::owners(&left), [crate::object::uid(&b)]);
    delete(&mut cluster, "b", "");
    assert_eq!(names(&cluster), [] as [&str; 0]);
}

#[test]
fn orphans_stay_and_forget_their_owner() {
    let mut cluster = Cluster::new(100);
    let a = cluster.load(map("a")).unwrap();
    cluster.load(owned("b", &[&a], true)).unwrap();
    delete(&mut cluster, "a", "propagationPolicy=Orphan");
    assert_eq!(names(&cluster), ["b"]);
    let left = cluster
        .get(&at(&cluster, "configmaps", "default", "b"))
        .unwrap();
    assert_eq!(crate::object::owners(&left), [] as [&str; 0]);
}

#[test]
fn in_the_foreground_an_owner_waits_for_what_it_owns() {
    let mut cluster = Cluster::new(100);
    let a = cluster.load(map("a")).unwrap();
    let mut held = owned("b", &[&a], true);
    held["metadata"]["finalizers"] = json!(["sea.example/anchor"]);
    cluster.load(held).unwrap();
    let going = delete(&mut cluster, "a", "propagationPolicy=Foreground");
    assert!(matches!(going, Deleted::Going(_)));
    assert_eq!(names(&cluster), ["a", "b"]);
    let free = json!({ "metadata": { "finalizers": null } });
    let target = at(&cluster, "configmaps", "default", "b");
    cluster
        .patch(&target, crate::patch::Patch::Merge, free, &query(""))
        .unwrap();
    assert_eq!(names(&cluster), [] as [&str; 0]);
}

#[test]
fn what_is_born_without_its_owner_does_not_stay() {
    let mut cluster = Cluster::new(100);
    let a = cluster.load(map("a")).unwrap();
    delete(&mut cluster, "a", "");
    cluster.load(owned("b", &[&a], false)).unwrap();
    assert_eq!(names(&cluster), [] as [&str; 0]);
}

#[test]
fn a_namespace_takes_everything_with_it() {
    let mut cluster = Cluster::new(100);
    cluster
        .load(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "x" } }))
        .unwrap();
    let mut held = map("held");
    held["metadata"]["namespace"] = json!("x");
    let mut free = map("free");
    free["metadata"]["namespace"] = json!("x");
    held["metadata"]["finalizers"] = json!(["sea.example/anchor"]);
    cluster.load(held).unwrap();
    cluster.load(free.clone()).unwrap();
    let namespace = at(&cluster, "namespaces", "", "x");
    cluster
        .delete(&namespace, &Value::Null, &query(""))
        .unwrap();
    let live = cluster.get(&namespace).unwrap();
    assert_eq!(live["status"]["phase"], "Terminating");
    assert_eq!(cluster.load(free).unwrap_err().code, 403);
    let target = at(&cluster, "configmaps", "x", "held");
    let patch = json!({ "metadata": { "finalizers": [] } });
    cluster
        .patch(&target, crate::patch::Patch::Merge, patch, &query(""))
        .unwrap();
    assert_eq!(cluster.get(&namespace).unwrap_err().code, 404);
}

#[test]
fn a_definition_takes_its_objects_with_it() {
    let mut cluster = Cluster::new(100);
    cluster.load(definition(&["v1"])).unwrap();
    let boat =
        json!({ "apiVersion": "sea.example/v1", "kind": "Boat", "metadata": { "name": "a" } });
    cluster.load(boat.clone()).unwrap();
    let target = at(
        &cluster,
        "customresourcedefinitions",
        "",
        "boats.sea.example",
    );
    cluster.delete(&target, &Value::Null, &query("")).unwrap();
    assert_eq!(cluster.get(&target).unwrap_err().code, 404);
    assert!(
        cluster
            .registry
            .find("sea.example", "v1", "boats")
            .is_none()
    );
    assert_eq!(cluster.load(boat).unwrap_err().code, 404);
}

#[test]
fn preconditions_hold_a_deletion_back() {
    let mut cluster = Cluster::new(100);
    cluster.load(map("a")).unwrap();
    let target = at(&cluster, "configmaps", "default", "a");
    for precondition in [json!({ "uid": "other" }), json!({ "resourceVersion": "1" })] {
        let options = json!({ "preconditions": precondition });
        let failure = cluster.delete(&target, &options, &query("")).unwrap_err();
        assert_eq!((failure.code, failure.reason), (409, "Conflict"));
    }
    assert_eq!(names(&cluster), ["a"]);
}

#[test]
fn no_finalizer_comes_to_what_is_going() {
    let mut cluster = Cluster::new(100);
    let mut held = map("a");
    held["metadata"]["finalizers"] = json!(["sea.example/anchor"]);
    cluster.load(held).unwrap();
    delete(&mut cluster, "a", "");
    let target = at(&cluster, "configmaps", "default", "a");
    let patch = json!({ "metadata": { "finalizers": ["sea.example/anchor", "sea.example/b"] } });
    let failure = cluster
        .patch(&target, crate::patch::Patch::Merge, patch, &query(""))
        .unwrap_err();
    assert!(
        failure.message.contains("no new finalizers can be added"),
        "{failure}"
    );
}

#[test]
fn a_collection_goes_by_selector() {
    let mut cluster = Cluster::new(100);
    for (name, colour) in [("a", "red"), ("b", "blue"), ("c", "red")] {
        let mut object = map(name);
        object["metadata"]["labels"] = json!({ "colour": colour });
        cluster.load(object).unwrap();
    }
    let all = at(&cluster, "configmaps", "default", "");
    cluster
        .delete_collection(&all, &query("labelSelector=colour%3Dred"))
        .unwrap();
    assert_eq!(names(&cluster), ["b"]);
}

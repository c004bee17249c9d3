mod admission;
mod deletion;
mod invariants;

use serde_json::json;

use super::*;

/// Where objects of a built-in or loaded kind are, by the plural name.
pub(super) fn at(cluster: &Cluster, plural: &str, namespace: &str, name: &str) -> Target {
    let found = cluster
        .registry
        .all()
        .find(|resource| resource.plural == plural);
    Target {
        resource: Arc::clone(found.unwrap()),
        namespace: namespace.into(),
        name: name.into(),
        subresource: String::new(),
    }
}

pub(super) fn map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } })
}

pub(super) fn query(text: &str) -> Query {
    Query::parse(text).unwrap()
}

fn definition(versions: &[&str]) -> Value {
    let version = |name: &&str| {
        json!({
            "name": name, "served": true, "storage": *name == versions[0],
            "schema": { "openAPIV3Schema": { "type": "object", "properties": {
                "spec": { "type": "object", "properties": { "a": { "type": "integer" } } } } } },
        })
    };
    let versions: Vec<_> = versions.iter().map(version).collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "boats.sea.example" },
        "spec": {
            "group": "sea.example", "scope": "Cluster",
            "names": { "plural": "boats", "kind": "Boat" }, "versions": versions,
        },
    })
}

#[test]
fn a_generated_name_is_new_each_time() {
    let mut cluster = Cluster::new(100);
    let target = at(&cluster, "configmaps", "default", "");
    let object = json!({ "metadata": { "generateName": "log-" } });
    let mut names: Vec<_> = (0..20)
        .map(|_| {
            let made = cluster.create(&target, object.clone(), &query("")).unwrap();
            crate::object::name(&made).to_owned()
        })
        .collect();
    assert!(
        names
            .iter()
            .all(|name| name.len() == 9 && name.starts_with("log-"))
    );
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 20);
}

#[test]
fn a_dry_run_changes_nothing() {
    let mut cluster = Cluster::new(100);
    cluster.load(map("a")).unwrap();
    let before = cluster.store.version();
    let (all, one) = (
        at(&cluster, "configmaps", "default", ""),
        at(&cluster, "configmaps", "default", "a"),
    );
    let dry = query("dryRun=All&fieldManager=m");
    let made = cluster.create(&all, map("b"), &dry).unwrap();
    assert_eq!(crate::object::name(&made), "b");
    let patch = json!({ "data": { "k": "v" } });
    let patched = cluster
        .patch(&one, crate::patch::Patch::Merge, patch, &dry)
        .unwrap();
    assert_eq!(patched["data"]["k"], "v");
    cluster
        .apply(&one, json!({ "data": { "k": "v" } }), &dry)
        .unwrap();
    cluster.delete(&one, &Value::Null, &dry).unwrap();
    assert_eq!(cluster.store.version(), before);
}

#[test]
fn a_change_of_nothing_has_no_version() {
    let mut cluster = Cluster::new(100);
    let live = cluster.load(map("a")).unwrap();
    let target = at(&cluster, "configmaps", "default", "a");
    let same = cluster
        .update(&target, Value::clone(&live), &query("fieldManager=x"))
        .unwrap();
    assert_eq!(same, live);
    assert_eq!(cluster.store.version(), crate::object::version(&live));
}

#[test]
fn a_namespace_must_be_there() {
    let mut cluster = Cluster::new(100);
    let mut lost = map("a");
    lost["metadata"]["namespace"] = json!("nowhere");
    let failure = cluster.load(lost).unwrap_err();
    assert_eq!(failure.code, 404);
    assert_eq!(failure.message, "namespaces \"nowhere\" not found");
}

#[test]
fn names_and_labels_are_checked() {
    let mut cluster = Cluster::new(100);
    for name in ["A", "a_b", "-a", "a.", &"a".repeat(254)] {
        let failure = cluster.load(map(name)).unwrap_err();
        assert_eq!(failure.code, 422, "{name}");
        assert!(
            failure.message.contains("metadata.name: Invalid value"),
            "{failure}"
        );
    }
    let mut labelled = map("a");
    labelled["metadata"]["labels"] = json!({ "x/y/z": "1", "ok": "no spaces" });
    let failure = cluster.load(labelled).unwrap_err();
    assert_eq!(failure.details["causes"].as_array().unwrap().len(), 2);
    let role = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                       "metadata": { "name": "system:Node" } });
    cluster.load(role).unwrap();
}

#[test]
fn a_definition_serves_each_of_its_versions() {
    let mut cluster = Cluster::new(100);
    let made = cluster.load(definition(&["v2", "v1"])).unwrap();
    let established = &made["status"]["conditions"][1];
    assert_eq!(
        (&established["type"], &established["status"]),
        (&json!("Established"), &json!("True"))
    );
    let boat = json!({ "apiVersion": "sea.example/v1", "kind": "Boat", "metadata": { "name": "a" },
                       "spec": { "a": 1 } });
    cluster.load(boat).unwrap();
    let newer = cluster
        .registry
        .find("sea.example", "v2", "boats")
        .cloned()
        .unwrap();
    let target = Target {
        resource: newer,
        ..at(&cluster, "boats", "", "a")
    };
    let live = cluster.get(&target).unwrap();
    assert_eq!(
        cluster.shown(&target, &live)["apiVersion"],
        "sea.example/v2"
    );
}

#[test]
fn a_definition_that_is_wrong_says_where() {
    let mut cluster = Cluster::new(100);
    let mut wrong = definition(&["v1"]);
    wrong["metadata"]["name"] = json!("ships.sea.example");
    wrong["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = json!({});
    let failure = cluster.load(wrong).unwrap_err();
    let causes = failure.details["causes"].as_array().unwrap();
    let fields: Vec<_> = causes
        .iter()
        .map(|cause| cause["field"].as_str().unwrap())
        .collect();
    let schema = "spec.versions[0].schema.openAPIV3Schema.properties[spec].type";
    assert_eq!(fields, ["metadata.name", schema]);
}

#[test]
fn a_custom_object_is_replaced_only_as_it_was_read() {
    let mut cluster = Cluster::new(100);
    cluster.load(definition(&["v1"])).unwrap();
    let boat = json!({ "apiVersion": "sea.example/v1", "kind": "Boat", "metadata": { "name": "a" },
                       "spec": { "a": 1 } });
    cluster.load(boat.clone()).unwrap();
    let target = at(&cluster, "boats", "", "a");
    let blind = cluster
        .update(&target, boat.clone(), &query(""))
        .unwrap_err();
    assert!(
        blind
            .message
            .contains("metadata.resourceVersion: Invalid value"),
        "{blind}"
    );
    let patch = crate::patch::Patch::Strategic;
    let failure = cluster
        .patch(&target, patch, json!({}), &query(""))
        .unwrap_err();
    assert_eq!(failure.code, 415);
    let mut odd = boat;
    odd["spec"]["sails"] = json!(1);
    odd["metadata"]["name"] = json!("b");
    let all = at(&cluster, "boats", "", "");
    let strict = cluster
        .create(&all, odd.clone(), &query("fieldValidation=Strict"))
        .unwrap_err();
    assert_eq!(strict.code, 400);
    assert!(
        strict.message.contains("unknown field \"spec.sails\""),
        "{strict}"
    );
    let made = cluster.create(&all, odd, &query("")).unwrap();
    assert_eq!(made["spec"], json!({ "a": 1 }));
}

use serde_json::json;

use super::*;

fn patched(kind: Patch, object: &Value, patch: Value) -> Value {
    let mut object = object.clone();
    kind.apply(&mut object, patch).unwrap();
    object
}

#[test]
fn a_json_patch_that_does_not_fit_is_refused() {
    let mut object = json!({ "a": 1 });
    let test = json!([{ "op": "test", "path": "/a", "value": 2 }]);
    assert_eq!(Patch::Json.apply(&mut object, test).unwrap_err().code, 422);
    let odd = json!([{ "op": "explode", "path": "/a" }]);
    assert_eq!(Patch::Json.apply(&mut object, odd).unwrap_err().code, 400);
    let add = json!([{ "op": "add", "path": "/b", "value": [1] }]);
    assert_eq!(
        patched(Patch::Json, &object, add),
        json!({ "a": 1, "b": [1] })
    );
}

#[test]
fn a_merge_patch_replaces_lists_and_removes_with_null() {
    let object = json!({ "a": { "b": 1, "c": [1, 2] } });
    let patch = json!({ "a": { "b": null, "c": [3] } });
    assert_eq!(
        patched(Patch::Merge, &object, patch),
        json!({ "a": { "c": [3] } })
    );
}

#[test]
fn a_strategic_patch_merges_conditions_by_type() {
    let object = json!({ "status": { "conditions": [
        { "type": "Ready", "status": "False", "reason": "x" },
        { "type": "Disk", "status": "True" },
    ]}});
    let patch = json!({ "status": { "conditions": [
        { "type": "Ready", "status": "True" }, { "type": "New", "status": "True" },
        { "type": "Disk", "$patch": "delete" },
    ]}});
    assert_eq!(
        patched(Patch::Strategic, &object, patch)["status"]["conditions"],
        json!([
            { "type": "Ready", "status": "True", "reason": "x" },
            { "type": "New", "status": "True" },
        ])
    );
}

#[test]
fn a_strategic_patch_replaces_taints() {
    let object = json!({ "spec": { "taints": [{ "key": "a", "effect": "NoSchedule" }] } });
    let patch = json!({ "spec": { "taints": [{ "key": "b", "effect": "NoExecute" }] } });
    assert_eq!(patched(Patch::Strategic, &object, patch.clone()), patch);
}

#[test]
fn a_strategic_patch_of_containers_and_their_ports() {
    let object = json!({ "spec": { "containers": [
        { "name": "a", "image": "1", "ports": [{ "containerPort": 80, "name": "web" }] },
    ]}});
    let patch = json!({ "spec": {
        "$setElementOrder/containers": [{ "name": "b" }, { "name": "a" }],
        "containers": [
            { "name": "a", "ports": [{ "containerPort": 81 }, { "containerPort": 80, "name": "w" }] },
            { "name": "b", "image": "2" },
        ],
    }});
    assert_eq!(
        patched(Patch::Strategic, &object, patch)["spec"]["containers"],
        json!([
            { "name": "b", "image": "2" },
            { "name": "a", "image": "1",
              "ports": [{ "containerPort": 80, "name": "w" }, { "containerPort": 81 }] },
        ])
    );
}

#[test]
fn directives_of_strategic_patches() {
    let object = json!({ "metadata": { "finalizers": ["a", "b"], "labels": { "x": "1" } } });
    let patch = json!({ "metadata": {
        "$deleteFromPrimitiveList/finalizers": ["a"],
        "finalizers": ["c"],
        "labels": { "$patch": "replace", "y": "2" },
    }});
    assert_eq!(
        patched(Patch::Strategic, &object, patch),
        json!({ "metadata": { "finalizers": ["b", "c"], "labels": { "y": "2" } } })
    );
    let kept = json!({ "strategy": { "$retainKeys": ["type"], "type": "Recreate" } });
    let object = json!({ "strategy": { "type": "RollingUpdate", "rollingUpdate": {} } });
    assert_eq!(
        patched(Patch::Strategic, &object, kept),
        json!({ "strategy": { "type": "Recreate" } })
    );
}

#[test]
fn an_item_without_its_key_is_refused() {
    let mut object = json!({ "status": { "conditions": [] } });
    let patch = json!({ "status": { "conditions": [{ "status": "True" }] } });
    assert_eq!(
        Patch::Strategic.apply(&mut object, patch).unwrap_err().code,
        400
    );
}

#![expect(
    clippy::needless_pass_by_value,
    reason = "values written in place read better"
)]

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::Schema;

fn actor(manager: &str, applies: bool) -> Actor {
    Actor {
        manager: manager.into(),
        applies,
        api_version: "v1".into(),
        subresource: String::new(),
        time: "2020-01-01T00:00:00Z".into(),
    }
}

const BUILT_IN: Place<'static> = Place::BuiltIn("");

fn run(live: &Value, manager: &str, applied: Value) -> Result<Value, Failure> {
    apply(live, &applied, BUILT_IN, &actor(manager, true), false)
}

fn without_managers(mut object: Value) -> Value {
    object::metadata(&mut object).remove("managedFields");
    object
}

#[test]
fn managers_are_written_as_kubernetes_writes_them() {
    let applied = json!({
        "metadata": { "name": "n", "labels": { "a": "1" }, "finalizers": ["f"] },
        "spec": { "containers": [{ "name": "c", "image": "i" }], "nodeSelector": { "x": "y" } },
    });
    let object = run(&json!({}), "me", applied).unwrap();
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{
            "manager": "me", "operation": "Apply", "apiVersion": "v1", "time": "2020-01-01T00:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": { "f:labels": { "f:a": {} }, "f:finalizers": { "v:\"f\"": {} } },
                "f:spec": {
                    "f:containers": { "k:{\"name\":\"c\"}": { ".": {}, "f:name": {}, "f:image": {} } },
                    "f:nodeSelector": {},
                },
            },
        }])
    );
}

#[test]
fn what_is_applied_no_more_goes_unless_another_wants_it() {
    let one = run(&json!({}), "one", json!({ "data": { "a": "1", "b": "1" } })).unwrap();
    let two = run(&one, "two", json!({ "data": { "b": "1", "c": "1" } })).unwrap();
    let less = run(&two, "one", json!({ "data": {} })).unwrap();
    assert_eq!(less["data"], json!({ "b": "1", "c": "1" }));
    let none = run(&less, "two", json!({})).unwrap();
    assert_eq!(none["data"], json!({}));
    let gone = run(&none, "one", json!({})).unwrap();
    assert_eq!(without_managers(gone), json!({ "metadata": {} }));
}

#[test]
fn items_are_owned_by_their_keys() {
    let item = |name: &str, image: &str| json!({ "name": name, "image": image });
    let pod = |items: Vec<Value>| json!({ "spec": { "containers": items } });
    let one = run(&json!({}), "one", pod(vec![item("a", "1")])).unwrap();
    let two = run(&one, "two", pod(vec![item("b", "1")])).unwrap();
    assert_eq!(
        two["spec"]["containers"],
        json!([item("a", "1"), item("b", "1")])
    );
    let refused = run(&two, "two", pod(vec![item("a", "2")])).unwrap_err();
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"one\" using v1: \
         .spec.containers[name=\"a\"].image"
    );
    let less = run(&two, "one", json!({})).unwrap();
    assert_eq!(less["spec"]["containers"], json!([item("b", "1")]));
}

#[test]
fn an_item_keeps_its_key_while_another_owns_a_part_of_it() {
    let pod = json!({ "spec": { "containers": [{ "name": "a", "image": "1" }] } });
    let one = run(&json!({}), "one", pod).unwrap();
    let mut other = one.clone();
    other["spec"]["containers"][0]["tty"] = json!(true);
    updated(&one, &mut other, BUILT_IN, &actor("two", false));
    let less = run(&other, "one", json!({})).unwrap();
    assert_eq!(
        less["spec"]["containers"],
        json!([{ "name": "a", "tty": true }])
    );
}

#[test]
fn an_update_takes_the_fields_it_changes() {
    let one = run(&json!({}), "one", json!({ "data": { "a": "1" } })).unwrap();
    let mut two = one.clone();
    two["data"]["a"] = json!("2");
    updated(&one, &mut two, BUILT_IN, &actor("two", false));
    let refused = run(&two, "one", json!({ "data": { "a": "1" } })).unwrap_err();
    assert!(
        refused
            .message
            .contains("conflict with \"two\" using v1: .data.a")
    );
    // Agreeing is sharing.
    let shared = run(&two, "one", json!({ "data": { "a": "2" } })).unwrap();
    assert_eq!(items(&shared, &["metadata", "managedFields"]).len(), 2);
}

#[test]
fn a_schema_says_which_lists_have_keys() {
    let schema = json!({ "type": "object", "properties": { "spec": { "type": "object", "properties": {
        "whole": { "type": "array", "items": { "type": "string" } },
        "keyed": { "type": "array", "x-kubernetes-list-type": "map",
                   "x-kubernetes-list-map-keys": ["id"],
                   "items": { "type": "object", "properties": { "id": { "type": "integer" } } } },
        "set": { "type": "array", "x-kubernetes-list-type": "set", "items": { "type": "string" } },
    }}}});
    let schema = Schema::compile(&schema, "s").unwrap();
    let place = Place::Custom(&schema);
    let spec = |n: u64| json!({ "spec": { "whole": ["x"], "keyed": [{ "id": n }], "set": [n.to_string()] } });
    let one = apply(&json!({}), &spec(1), place, &actor("one", true), false).unwrap();
    let two = apply(&one, &spec(2), place, &actor("two", true), false).unwrap();
    assert_eq!(
        two["spec"],
        json!({
            "whole": ["x"], "keyed": [{ "id": 1 }, { "id": 2 }], "set": ["1", "2"],
        })
    );
}

fn data() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-d]", "[0-2]", 0..4).prop_map(|data| json!({ "data": data }))
}

proptest! {
    /// Whatever others did, a forced apply makes every applied field so, and once more changes
    /// nothing; fields that nobody applies are not there.
    #[test]
    fn applying_is_idempotent_and_leaves_nothing_behind(
        steps in prop::collection::vec((0usize..3, data()), 1..12),
    ) {
        let managers = ["one", "two", "three"];
        let mut live = json!({});
        let mut wanted = [json!({}), json!({}), json!({})];
        for (who, applied) in steps {
            let actor = actor(managers[who], true);
            live = apply(&live, &applied, BUILT_IN, &actor, true).unwrap();
            wanted[who] = applied["data"].clone();
            for (key, value) in applied["data"].as_object().unwrap() {
                prop_assert_eq!(&live["data"][key], value);
            }
            let again = apply(&live, &applied, BUILT_IN, &actor, false).unwrap();
            prop_assert_eq!(&again, &live);
            for key in live["data"].as_object().into_iter().flatten().map(|(key, _)| key) {
                prop_assert!(wanted.iter().any(|wanted| wanted.get(key).is_some()), "{}", key);
            }
        }
    }

    /// What is written as `fieldsV1` is read back.
    #[test]
    fn sets_survive_being_written(
        paths in prop::collection::btree_set(prop::collection::vec("f:[a-c]", 1..4), 0..8),
    ) {
        prop_assert_eq!(fields::from_json(&fields::to_json(&paths)), paths);
    }
}

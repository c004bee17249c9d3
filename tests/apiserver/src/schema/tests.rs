#![expect(
    clippy::needless_pass_by_value,
    reason = "values written in place read better"
)]

use serde_json::json;

use super::*;

fn schema(properties: Value) -> Schema {
    let json = json!({ "type": "object", "properties": properties });
    Schema::compile(&json, "s").unwrap()
}

fn wrong(properties: Value, object: Value) -> Vec<String> {
    let causes = schema(properties).validate(&object, None);
    causes
        .into_iter()
        .map(|cause| format!("{} [{}] {}", cause.field, cause.reason, cause.message))
        .collect()
}

#[test]
fn each_check_says_what_kubernetes_says() {
    let invalid = |field: &str, shown: &str, what: &str| {
        format!("{field} [FieldValueInvalid] Invalid value: {shown}: {field} in body {what}")
    };
    for (property, value, message) in [
        (json!({ "type": "integer", "minimum": 1 }), json!(0),
         invalid("x", "0", "should be greater than or equal to 1")),
        (json!({ "type": "integer", "maximum": 1, "exclusiveMaximum": true }), json!(1),
         invalid("x", "1", "should be less than 1")),
        (json!({ "type": "integer", "multipleOf": 2 }), json!(3),
         invalid("x", "3", "should be a multiple of 2")),
        (json!({ "type": "string", "pattern": "^a+$" }), json!("b"),
         invalid("x", "\"b\"", "should match '^a+$'")),
        (json!({ "type": "string", "minLength": 2 }), json!("b"),
         invalid("x", "\"b\"", "should be at least 2 chars long")),
        (json!({ "type": "string", "maxLength": 2 }), json!("bbb"),
         "x [FieldValueTooLong] Too long: may not be more than 2 bytes".into()),
        (json!({ "type": "array", "maxItems": 1, "items": { "type": "integer" } }), json!([1, 2]),
         "x [FieldValueTooMany] Too many: 2: must have at most 1 items".into()),
        (json!({ "type": "string", "enum": ["a", "b"] }), json!("c"),
         "x [FieldValueNotSupported] Unsupported value: \"c\": supported values: \"a\", \"b\"".into()),
        (json!({ "type": "string" }), json!(1),
         "x [FieldValueTypeInvalid] Invalid value: \"integer\": x in body must be of type string: \
          \"integer\"".into()),
        (json!({ "type": "object", "required": ["y"],
                 "properties": { "y": { "type": "string" } } }), json!({}),
         "x.y [FieldValueRequired] Required value".into()),
    ] {
        assert_eq!(wrong(json!({ "x": property }), json!({ "x": value })), [message]);
    }
}

#[test]
fn nullable_and_int_or_string_take_what_they_say() {
    let nullable = json!({ "x": { "type": "string", "nullable": true } });
    assert_eq!(wrong(nullable, json!({ "x": null })), [] as [&str; 0]);
    assert_eq!(
        wrong(json!({ "x": { "type": "string" } }), json!({ "x": null })).len(),
        1
    );
    let either = json!({ "x": { "x-kubernetes-int-or-string": true } });
    assert_eq!(
        wrong(either.clone(), json!({ "x": "10%" })),
        [] as [&str; 0]
    );
    assert_eq!(wrong(either.clone(), json!({ "x": 10 })), [] as [&str; 0]);
    assert_eq!(wrong(either, json!({ "x": [] })).len(), 1);
}

#[test]
fn an_item_twice_is_refused_where_items_have_keys() {
    let list = json!({ "x": {
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
        "items": { "type": "object", "properties": { "k": { "type": "string" } } },
    }});
    let twice = wrong(list, json!({ "x": [{ "k": "a" }, { "k": "a" }] }));
    assert_eq!(
        twice,
        ["x[1] [FieldValueDuplicate] Duplicate value: {\"k\":\"a\"}"]
    );
}

#[test]
fn what_is_unknown_goes_and_what_has_a_default_comes() {
    let schema = schema(json!({
        "spec": { "type": "object", "properties": {
            "a": { "type": "integer", "default": 3 },
            "free": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
            "map": { "type": "object", "additionalProperties": {
                "type": "object", "properties": { "b": { "type": "string", "default": "x" } } } },
            "list": { "type": "array", "items": { "type": "object", "properties": {
                "c": { "type": "string" } } } },
        }},
    }));
    let mut object = json!({
        "apiVersion": "v", "kind": "k", "metadata": { "name": "n" }, "odd": 1,
        "spec": { "free": { "any": 1 }, "map": { "m": {} }, "list": [{ "c": "c", "d": 1 }] },
    });
    let removed = schema.prune(&mut object);
    assert_eq!(removed, ["spec.list[0].d", "odd"]);
    schema.fill(&mut object);
    assert_eq!(
        object["spec"],
        json!({
            "a": 3, "free": { "any": 1 }, "map": { "m": { "b": "x" } }, "list": [{ "c": "c" }],
        })
    );
    assert_eq!(object["metadata"]["name"], "n");
}

#[test]
fn combined_schemas() {
    let any = json!({ "x": { "type": "integer", "anyOf": [{ "minimum": 5 }, { "maximum": 1 }] } });
    assert_eq!(wrong(any.clone(), json!({ "x": 1 })), [] as [&str; 0]);
    assert_eq!(wrong(any, json!({ "x": 3 })).len(), 1);
    let one = json!({ "x": { "type": "integer", "oneOf": [{ "minimum": 5 }, { "minimum": 7 }] } });
    assert_eq!(wrong(one.clone(), json!({ "x": 6 })), [] as [&str; 0]);
    assert_eq!(wrong(one, json!({ "x": 8 })).len(), 1);
}

#[test]
fn a_schema_without_types_or_with_broken_parts_is_no_schema() {
    for (properties, at) in [
        (json!({ "x": {} }), "s.properties[x].type"),
        (json!({ "x": { "type": "colour" } }), "s.properties[x].type"),
        (json!({ "x": { "type": "array" } }), "s.properties[x].items"),
        (
            json!({ "x": { "type": "string", "pattern": "(" } }),
            "s.properties[x].pattern",
        ),
        (
            json!({ "x": { "type": "string", "x-kubernetes-validations": [{ "rule": "self ==" }] } }),
            "s.properties[x].x-kubernetes-validations[0].rule",
        ),
    ] {
        let json = json!({ "type": "object", "properties": properties });
        let causes = Schema::compile(&json, "s").unwrap_err();
        assert_eq!(causes[0].field, at);
    }
}

#![expect(
    clippy::needless_pass_by_value,
    reason = "values written in place read better"
)]

use serde_json::json;

use crate::schema::Schema;

/// What a rule on a property says of a value, and of a change of it.
fn says(
    property: serde_json::Value,
    rule: serde_json::Value,
    old: Option<serde_json::Value>,
    new: serde_json::Value,
) -> Vec<String> {
    let mut property = property;
    property["x-kubernetes-validations"] = json!([rule]);
    let json = json!({ "type": "object", "properties": { "x": property } });
    let schema = Schema::compile(&json, "s").unwrap();
    let old = old.map(|old| json!({ "x": old }));
    let causes = schema.validate(&json!({ "x": new }), old.as_ref());
    causes
        .into_iter()
        .map(|cause| format!("{}: {}", cause.field, cause.message))
        .collect()
}

fn holds(property: serde_json::Value, rule: &str, value: serde_json::Value) -> bool {
    says(property, json!({ "rule": rule }), None, value).is_empty()
}

#[test]
fn rules_see_values_with_the_types_of_their_schema() {
    let integer = json!({ "type": "integer" });
    assert!(holds(
        integer.clone(),
        "self > 1 && self % 2 == 0",
        json!(4)
    ));
    assert!(!holds(integer, "self > 1", json!(1)));
    // 2 is written without a fraction, and still a number.
    assert!(holds(
        json!({ "type": "number" }),
        "self / 4.0 == 0.5",
        json!(2)
    ));
    let time = json!({ "type": "string", "format": "date-time" });
    assert!(holds(
        time,
        "self < timestamp('2030-01-01T00:00:00Z')",
        json!("2020-01-01T00:00:00Z")
    ));
    let span = json!({ "type": "string", "format": "duration" });
    assert!(holds(span, "self >= duration('90s')", json!("2m")));
    let list = json!({ "type": "array", "items": { "type": "string" } });
    assert!(holds(
        list.clone(),
        "self.all(x, x.startsWith('a')) && size(self) == 2",
        json!(["a", "ab"])
    ));
    assert!(!holds(
        list,
        "self.exists_one(x, x == 'a')",
        json!(["a", "a"])
    ));
    let text = json!({ "type": "string" });
    assert!(holds(
        text.clone(),
        "self.matches('^[a-z]+$')",
        json!("abc")
    ));
    assert!(holds(
        text,
        "self.split('-')[0] == 'kata'",
        json!("kata-qemu")
    ));
}

#[test]
fn a_property_named_as_a_word_of_the_language_is_escaped() {
    let object = json!({ "type": "object", "properties": {
        "namespace": { "type": "string" }, "a-b": { "type": "string" }, "c": { "type": "string" },
    }});
    let rule = "self.__namespace__ == 'x' && self.a__dash__b == 'y' && !has(self.c)";
    assert!(holds(object, rule, json!({ "namespace": "x", "a-b": "y" })));
}

#[test]
fn a_rule_about_a_change_waits_for_one() {
    let property = json!({ "type": "string" });
    let rule = json!({ "rule": "self == oldSelf", "message": "is immutable" });
    let run = |old, new| says(property.clone(), rule.clone(), old, new);
    assert_eq!(run(None, json!("a")), [] as [&str; 0]);
    assert_eq!(run(Some(json!("a")), json!("a")), [] as [&str; 0]);
    assert_eq!(
        run(Some(json!("a")), json!("b")),
        ["x: Invalid value: \"string\": is immutable"]
    );
    let eager = json!({ "rule": "oldSelf.hasValue() || self == 'first'", "optionalOldSelf": true });
    let run = |old, new| says(property.clone(), eager.clone(), old, new).len();
    assert_eq!((run(None, json!("x")), run(None, json!("first"))), (1, 0));
    assert_eq!(run(Some(json!("a")), json!("x")), 0);
}

#[test]
fn messages_may_be_computed_and_rules_without_one_show_themselves() {
    let property = json!({ "type": "integer" });
    let computed =
        json!({ "rule": "self < 3", "messageExpression": "'too many: ' + string(self)" });
    assert_eq!(
        says(property.clone(), computed, None, json!(4)),
        ["x: Invalid value: \"integer\": too many: 4"]
    );
    assert_eq!(
        says(
            property.clone(),
            json!({ "rule": "self < 3" }),
            None,
            json!(4)
        ),
        ["x: Invalid value: \"integer\": failed rule: self < 3"]
    );
    let forbidden = json!({ "rule": "self < 3", "message": "no", "reason": "FieldValueForbidden" });
    assert_eq!(
        says(property, forbidden, None, json!(4)),
        ["x: Forbidden: no"]
    );
}

#[test]
fn a_rule_that_fails_to_run_does_not_hold() {
    let property = json!({ "type": "object", "properties": { "a": { "type": "integer" } } });
    assert!(!holds(property, "self.a > 1", json!({})));
}

/// What is wrong with a rule of a whole resource, if it is not served for it.
fn refused(rule: &str) -> Option<String> {
    let json = json!({
        "type": "object",
        "x-kubernetes-validations": [{ "rule": rule }],
        "properties": {
            "spec": { "type": "object", "properties": {
                "names": { "type": "array", "items": { "type": "object", "properties": {
                    "a": { "type": "string" } } } },
                "map": { "type": "object", "additionalProperties": { "type": "object",
                    "properties": { "b": { "type": "integer" } } } },
                "any": { "x-kubernetes-preserve-unknown-fields": true },
                "kept": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
            }},
        },
    });
    let causes = Schema::compile(&json, "s").err()?;
    assert_eq!(causes[0].field, "s.x-kubernetes-validations[0].rule");
    let (_, error) = causes[0]
        .message
        .split_once("compilation failed: ")
        .unwrap();
    Some(error.to_owned())
}

#[test]
fn a_rule_that_names_what_is_there_is_served() {
    for rule in [
        "self.metadata.name == 'cluster'",
        "self.spec.names.all(n, n.a != '')",
        "self.spec.names[0].a == 'x'",
        "self.spec.map['k'].b == 1 && self.spec.map.all(k, self.spec.map[k].b > 0)",
        "has(self.spec.any) && self.spec.any.b.c == 1",
        "oldSelf.spec == self.spec",
        "[1, 2].exists(i, i == int('1'))",
    ] {
        assert_eq!(refused(rule), None, "{rule}");
    }
}

#[test]
fn a_rule_that_names_what_is_not_there_is_refused() {
    for (rule, error) in [
        ("self.specs == 1", "undefined field 'specs'"),
        ("has(self.spec.nmes)", "undefined field 'nmes'"),
        ("self.spec.names.all(n, n.b == 1)", "undefined field 'b'"),
        (
            "self.spec.names.all(n, m.a == '')",
            "undeclared reference to 'm'",
        ),
        ("self.spec.map['k'].c == 1", "undefined field 'c'"),
        ("self.spec.kept.x == 1", "undefined field 'x'"),
        (
            "self.metadata.labels['a'] == 'b'",
            "undefined field 'labels'",
        ),
        ("object.spec == 1", "undeclared reference to 'object'"),
        (
            "self.spec.names.a == 'x'",
            "type 'array' does not support field selection",
        ),
    ] {
        assert_eq!(refused(rule).as_deref(), Some(error), "{rule}");
    }
}

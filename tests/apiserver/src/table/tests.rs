use serde_json::json;

use super::*;

#[test]
fn the_first_form_that_is_known_is_taken() {
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    assert_eq!(
        Form::accepted(table, "").unwrap(),
        Form::Table(Rows::Metadata)
    );
    assert_eq!(
        Form::accepted(table, "limit=5&includeObject=Object").unwrap(),
        Form::Table(Rows::Whole)
    );
    let protobuf = "application/vnd.kubernetes.protobuf, application/json";
    assert_eq!(Form::accepted(protobuf, "").unwrap(), Form::Whole);
    assert_eq!(Form::accepted("", "").unwrap(), Form::Whole);
    let only = Form::accepted("application/vnd.kubernetes.protobuf", "").unwrap_err();
    assert_eq!(only.code, 406);
}

#[test]
fn columns_are_found_by_kubernetes_paths() {
    let object = json!({
        "metadata": { "labels": { "a.b/c": "x" } },
        "spec": { "count": 3, "list": ["p", "q"] },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    let shown = |kind: &str, text: &str| {
        let column = Column {
            name: "C".into(),
            kind: kind.into(),
            format: String::new(),
            description: String::new(),
            priority: 0,
            path: text.into(),
        };
        cell(&column, &path(text), &object)
    };
    assert_eq!(shown("integer", ".spec.count"), json!(3));
    assert_eq!(shown("string", ".spec.count"), json!("3"));
    assert_eq!(shown("string", ".spec.list[*]"), json!("p,q"));
    assert_eq!(shown("string", ".spec.list[1]"), json!("q"));
    assert_eq!(shown("string", ".metadata.labels.a\\.b/c"), json!("x"));
    assert_eq!(
        shown("string", ".status.conditions[?(@.type==\"Ready\")].status"),
        json!("True")
    );
    assert_eq!(shown("string", ".spec.missing"), Value::Null);
    assert_eq!(shown("string", "not a path["), Value::Null);
}

#[test]
fn ages_are_short() {
    for (seconds, text) in [
        (5, "5s"),
        (119, "119s"),
        (180, "3m"),
        (185, "3m5s"),
        (3600, "60m"),
        (4 * 3600 + 60, "4h1m"),
        (30 * 3600, "30h"),
        (3 * 86400 + 3600, "3d1h"),
        (400 * 86400, "400d"),
        (800 * 86400, "2y70d"),
    ] {
        assert_eq!(human(Duration::from_secs(seconds)), text);
    }
}

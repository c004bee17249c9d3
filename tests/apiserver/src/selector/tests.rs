#![expect(
    clippy::needless_pass_by_value,
    reason = "values written in place read better"
)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn matches(selector: &str, labels: Value) -> bool {
    let object = json!({ "metadata": { "labels": labels } });
    LabelSelector::parse(selector).unwrap().matches(&object)
}

#[test]
fn every_form_of_requirement_is_understood() {
    let labels = json!({ "a": "1", "b": "x" });
    for (selector, wanted) in [
        ("", true),
        ("a", true),
        ("c", false),
        ("!c", true),
        ("!a", false),
        ("a=1", true),
        ("a==1", true),
        ("a=2", false),
        ("a!=1", false),
        ("c!=1", true),
        ("a in (1,2)", true),
        ("a in (2, 3)", false),
        ("c in (1)", false),
        ("a notin (2)", true),
        ("a notin (1)", false),
        ("c notin (1)", true),
        ("a>0", true),
        ("a<1", false),
        ("b>0", false),
        ("a in (1,2),b=x, !c", true),
        ("a in (1,2),b=y", false),
    ] {
        assert_eq!(matches(selector, labels.clone()), wanted, "{selector}");
    }
}

#[test]
fn nonsense_is_refused() {
    for selector in ["=a", "a in b", "a in (b", "a > b", "a b", "a,,b", "in (x)"] {
        assert!(LabelSelector::parse(selector).is_err(), "{selector}");
    }
    let long = "a".repeat(LIMIT + 1);
    assert_eq!(LabelSelector::parse(&long), Err(SelectorError::TooLong));
}

#[test]
fn an_object_says_the_same() {
    let selector = json!({
        "matchLabels": { "a": "1" },
        "matchExpressions": [
            { "key": "b", "operator": "In", "values": ["x", "y"] },
            { "key": "c", "operator": "DoesNotExist" },
        ],
    });
    let of_object = LabelSelector::from_object(&selector).unwrap();
    assert_eq!(
        of_object,
        LabelSelector::parse("a=1,b in (x,y),!c").unwrap()
    );
}

#[test]
fn only_some_fields_can_be_selected() {
    let pod = json!({ "metadata": { "name": "p" }, "spec": { "nodeName": "n" } });
    let matches = |selector: &str| {
        FieldSelector::parse(selector, "pods")
            .unwrap()
            .matches(&pod)
    };
    assert!(matches("spec.nodeName=n,metadata.name==p"));
    assert!(!matches("spec.nodeName!=n"));
    assert!(matches("status.phase="));
    let other = FieldSelector::parse("spec.nodeName=n", "boats");
    assert_eq!(
        other,
        Err(SelectorError::Unsupported("spec.nodeName".into()))
    );
}

proptest! {
    #[test]
    fn no_text_is_a_panic(text in "[a-z=!<>(), in]{0,40}") {
        let _ = LabelSelector::parse(&text);
        let _ = FieldSelector::parse(&text, "pods");
    }
}

//! Names and labels.
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>

use serde_json::Value;

use crate::failure::Cause;
use crate::object::at;
use crate::resource::{RBAC, Resource};

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
    characters, '-' or '.', and must start and end with an alphanumeric character";

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric \
    characters or '-', and must start and end with an alphanumeric character";

/// What is wrong with an object's name.
pub(super) fn name(resource: &Resource, name: &str) -> Option<Cause> {
    let shown = Value::from(name);
    let wrong = |message: &str| Some(Cause::invalid("metadata.name", &shown, message));
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let edges = |name: &str| name.starts_with(lower) && name.ends_with(lower);
    if resource.group == RBAC {
        let good = !name.contains(['/', '%']) && !matches!(name, "" | "." | "..");
        return if good {
            None
        } else {
            wrong("may not contain '/' or '%'")
        };
    }
    if resource.group.is_empty() && matches!(&*resource.plural, "namespaces" | "services") {
        let good = name.len() <= 63 && edges(name) && name.chars().all(|c| lower(c) || c == '-');
        return if good { None } else { wrong(LABEL) };
    }
    let good = name.len() <= 253 && name.split('.').all(edges);
    if good && name.chars().all(|c| lower(c) || c == '-' || c == '.') {
        None
    } else {
        wrong(SUBDOMAIN)
    }
}

/// What is wrong with an object's labels.
pub(super) fn labels(object: &Value) -> Vec<Cause> {
    let labels = at(object, &["metadata", "labels"]).and_then(Value::as_object);
    let mut causes = Vec::new();
    for (key, value) in labels.into_iter().flatten() {
        let (prefix, own) = key.split_once('/').unwrap_or(("", key));
        if !word(own) || own.is_empty() || prefix.len() > 253 || own.contains('/') {
            let message = "name part must consist of alphanumeric characters, '-', '_' or '.', \
                           and must start and end with an alphanumeric character";
            causes.push(Cause::invalid(
                "metadata.labels",
                &Value::from(key.as_str()),
                message,
            ));
        }
        if !value.as_str().is_some_and(word) {
            let message = "a valid label must be an empty string or consist of alphanumeric \
                           characters, '-', '_' or '.', and must start and end with an \
                           alphanumeric character";
            causes.push(Cause::invalid("metadata.labels", value, message));
        }
    }
    causes
}

fn word(text: &str) -> bool {
    let end = |c: char| c.is_ascii_alphanumeric();
    text.is_empty()
        || (text.len() <= 63
            && text.starts_with(end)
            && text.ends_with(end)
            && text.chars().all(|c| end(c) || "-_.".contains(c)))
}

//! Label and field selectors.
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>

use std::collections::BTreeSet;

use serde_json::Value;

use crate::object;

/// Longest selector, bytes.
const LIMIT: usize = 16 << 10;

/// Why a selector cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// It is too long.
    #[error("the selector is longer than {LIMIT} bytes; select with fewer requirements")]
    TooLong,
    /// A requirement is malformed.
    #[error(
        "unable to parse requirement: `{0}`; write `key=value`, `key in (a,b)`, `key` or `!key`"
    )]
    Malformed(String),
    /// The field is not one that can be selected.
    #[error("field label not supported: {0}")]
    Unsupported(String),
}

/// A conjunction of requirements on labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
    Above(i64),
    Below(i64),
}

impl LabelSelector {
    /// Reads the form used in URLs.
    ///
    /// # Errors
    /// It is malformed.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.len() > LIMIT {
            return Err(SelectorError::TooLong);
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        split(text)
            .into_iter()
            .map(requirement)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Reads the form used in objects: `matchLabels` and `matchExpressions`.
    ///
    /// # Errors
    /// An operator is not known.
    pub fn from_object(selector: &Value) -> Result<Self, SelectorError> {
        let mut all = Vec::new();
        let labels = object::at(selector, &["matchLabels"]).and_then(Value::as_object);
        for (key, value) in labels.into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            let test = Test::In(BTreeSet::from([value]));
            all.push(Requirement {
                key: key.clone(),
                test,
            });
        }
        for expression in object::items(selector, &["matchExpressions"]) {
            let values = object::texts(expression, &["values"]).into_iter().collect();
            let test = match object::text(expression, &["operator"]) {
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Absent,
                other => return Err(SelectorError::Malformed(other.to_owned())),
            };
            let key = object::text(expression, &["key"]).to_owned();
            all.push(Requirement { key, test });
        }
        Ok(Self(all))
    }

    /// Whether an object's labels fulfil it.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        let labels = object::at(object, &["metadata", "labels"]);
        self.0.iter().all(|requirement| {
            let value = labels
                .and_then(|labels| labels.get(&requirement.key))
                .and_then(Value::as_str);
            match (&requirement.test, value) {
                (Test::In(values), Some(value)) => values.contains(value),
                (Test::NotIn(values), Some(value)) => !values.contains(value),
                (Test::NotIn(_) | Test::Absent, None) | (Test::Exists, Some(_)) => true,
                (Test::Above(least), Some(value)) => value.parse().is_ok_and(|n: i64| n > *least),
                (Test::Below(most), Some(value)) => value.parse().is_ok_and(|n: i64| n < *most),
                _ => false,
            }
        })
    }
}

/// Splits at commas outside of parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut inside) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => inside = true,
            b')' => inside = false,
            b',' if !inside => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn requirement(text: &str) -> Result<Requirement, SelectorError> {
    let bad = || SelectorError::Malformed(text.to_owned());
    let text = text.trim();
    let one = |value: &str| BTreeSet::from([value.trim().to_owned()]);
    let (key, test) = if let Some(key) = text.strip_prefix('!') {
        (key, Test::Absent)
    } else if let Some((key, value)) = text.split_once("!=") {
        (key, Test::NotIn(one(value)))
    } else if let Some((key, value)) = text.split_once('=') {
        (key, Test::In(one(value.strip_prefix('=').unwrap_or(value))))
    } else if let Some((head, rest)) = text.split_once('(') {
        let values = rest.strip_suffix(')').ok_or_else(bad)?;
        let values = values
            .split(',')
            .map(|value| value.trim().to_owned())
            .collect();
        match head.split_whitespace().collect::<Vec<_>>()[..] {
            [key, "in"] => (key, Test::In(values)),
            [key, "notin"] => (key, Test::NotIn(values)),
            _ => return Err(bad()),
        }
    } else if let Some((key, value)) = text.split_once('>') {
        (key, Test::Above(value.trim().parse().map_err(|_| bad())?))
    } else if let Some((key, value)) = text.split_once('<') {
        (key, Test::Below(value.trim().parse().map_err(|_| bad())?))
    } else {
        (text, Test::Exists)
    };
    let key = key.trim();
    let good = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if key.is_empty() || key.len() > 317 || !key.chars().all(good) {
        return Err(bad());
    }
    Ok(Requirement {
        key: key.to_owned(),
        test,
    })
}

/// A conjunction of comparisons of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<(Vec<String>, bool, String)>);

/// What can be selected beside name and namespace: the plural of the core kind, and its field.
const FIELDS: [(&str, &str); 12] = [
    ("pods", "spec.nodeName"),
    ("pods", "spec.restartPolicy"),
    ("pods", "spec.serviceAccountName"),
    ("pods", "status.phase"),
    ("nodes", "spec.unschedulable"),
    ("namespaces", "status.phase"),
    ("secrets", "type"),
    ("events", "involvedObject.kind"),
    ("events", "involvedObject.name"),
    ("events", "involvedObject.namespace"),
    ("events", "reason"),
    ("events", "type"),
];

impl FieldSelector {
    /// Reads the form used in URLs, for the resource `plural`.
    ///
    /// # Errors
    /// It is malformed, or names a field that cannot be selected.
    pub fn parse(text: &str, plural: &str) -> Result<Self, SelectorError> {
        if text.len() > LIMIT {
            return Err(SelectorError::TooLong);
        }
        let parts = text.split(',').filter(|part| !part.is_empty());
        let parts = parts.map(|part| {
            let (field, equal, value) = if let Some((field, value)) = part.split_once("!=") {
                (field, false, value)
            } else if let Some((field, value)) = part.split_once('=') {
                (field, true, value.strip_prefix('=').unwrap_or(value))
            } else {
                return Err(SelectorError::Malformed(part.to_owned()));
            };
            let known = ["metadata.name", "metadata.namespace"].contains(&field)
                || FIELDS.contains(&(plural, field));
            if !known {
                return Err(SelectorError::Unsupported(field.to_owned()));
            }
            let path = field.split('.').map(str::to_owned).collect();
            Ok((path, equal, value.to_owned()))
        });
        parts.collect::<Result<_, _>>().map(Self)
    }

    /// Whether an object's fields fulfil it; a missing field is empty.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(path, equal, wanted)| {
            let path: Vec<_> = path.iter().map(String::as_str).collect();
            let found = match object::at(object, &path) {
                Some(Value::Bool(value)) => value.to_string(),
                Some(Value::String(value)) => value.clone(),
                _ => String::new(),
            };
            (found == *wanted) == *equal
        })
    }
}

#[cfg(test)]
mod tests;

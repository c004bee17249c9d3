//! Reading and writing parts of an untyped object.

use serde_json::{Map, Value};

/// The text at `path`, or an empty one.
pub(crate) fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// The value at `path`.
pub(crate) fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, step| value.get(step))
}

/// The items of the list at `path`, none if there is no list.
pub(crate) fn items<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    at(object, path)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The texts of the list at `path`.
pub(crate) fn texts(object: &Value, path: &[&str]) -> Vec<String> {
    items(object, path)
        .iter()
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}

/// The member `name`, made a map where it is none.
pub(crate) fn section<'a>(object: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    map(map(object).entry(name).or_insert(Value::Null))
}

/// The metadata.
pub(crate) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    section(object, "metadata")
}

/// `value` as a map, made an empty one where it is none.
pub(crate) fn map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made a map above"),
    }
}

/// Sets `name`, or removes it where there is no value.
pub(crate) fn set(map: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    match value {
        Some(value) => {
            map.insert(name.to_owned(), value);
        }
        None => {
            map.remove(name);
        }
    }
}

pub(crate) fn name(object: &Value) -> &str {
    text(object, &["metadata", "name"])
}

pub(crate) fn namespace(object: &Value) -> &str {
    text(object, &["metadata", "namespace"])
}

pub(crate) fn uid(object: &Value) -> &str {
    text(object, &["metadata", "uid"])
}

/// Its resource version, 0 where it has none.
pub(crate) fn version(object: &Value) -> u64 {
    text(object, &["metadata", "resourceVersion"])
        .parse()
        .unwrap_or_default()
}

pub(crate) fn terminating(object: &Value) -> bool {
    at(object, &["metadata", "deletionTimestamp"]).is_some_and(|time| !time.is_null())
}

pub(crate) fn finalizers(object: &Value) -> Vec<String> {
    texts(object, &["metadata", "finalizers"])
}

/// The UIDs of its owners.
pub(crate) fn owners(object: &Value) -> Vec<&str> {
    items(object, &["metadata", "ownerReferences"])
        .iter()
        .map(|owner| text(owner, &["uid"]))
        .collect()
}

//! Sets of fields of objects, as `managedFields` names them.
//! <https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management>

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::lists::Place;
use crate::schema::List;

/// Steps from the root: `f:` and a field's name, `k:` and the keys of an item, `v:` and an item.
pub(crate) type Path = Vec<String>;

/// Fields.
pub(crate) type Set = BTreeSet<Path>;

/// Metadata that is the server's.
const SERVERS: [&str; 9] = [
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "generation",
    "managedFields",
    "resourceVersion",
    "deletionTimestamp",
];

/// The fields of an object that can have managers, each with its value.
pub(crate) fn leaves<'a>(object: &'a Value, place: Place<'a>) -> BTreeMap<Path, &'a Value> {
    let mut found = BTreeMap::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        let path = vec![format!("f:{name}")];
        match name.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    if !SERVERS.contains(&name.as_str()) {
                        let path = vec!["f:metadata".into(), format!("f:{name}")];
                        walk(value, place.field("metadata").field(name), path, &mut found);
                    }
                }
            }
            _ => walk(value, place.field(name), path, &mut found),
        }
    }
    found
}

fn walk<'a>(value: &'a Value, place: Place<'a>, path: Path, found: &mut BTreeMap<Path, &'a Value>) {
    let step = |step: String| {
        let mut path = path.clone();
        path.push(step);
        path
    };
    match value {
        Value::Object(map) if !map.is_empty() && !place.atomic_map() => {
            for (name, value) in map {
                walk(value, place.field(name), step(format!("f:{name}")), found);
            }
        }
        Value::Array(list) if !list.is_empty() => match place.list() {
            List::Map(keys) if list.iter().all(|item| key(item, &keys).is_some()) => {
                for item in list {
                    let path = step(item_step(item, &keys));
                    found.insert(path.clone(), &Value::Null);
                    walk(item, place.item(), path, found);
                }
            }
            List::Set => {
                for item in list {
                    found.insert(step(format!("v:{item}")), item);
                }
            }
            _ => {
                found.insert(path, value);
            }
        },
        _ => {
            found.insert(path, value);
        }
    }
}

/// The keys an item has, if it has any.
fn key(item: &Value, keys: &[String]) -> Option<Value> {
    let found = keys
        .iter()
        .filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
    let found: Map<_, _> = found.collect();
    (!found.is_empty()).then_some(Value::Object(found))
}

fn item_step(item: &Value, keys: &[String]) -> String {
    format!("k:{}", key(item, keys).unwrap_or_default())
}

/// Merges what was applied into an object.
pub(crate) fn merge(live: &mut Value, applied: &Value, place: Place<'_>) {
    match (live, applied) {
        (Value::Object(live), Value::Object(applied)) if !place.atomic_map() => {
            for (name, value) in applied {
                match live.get_mut(name) {
                    Some(below) => merge(below, value, place.field(name)),
                    None => {
                        live.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        (Value::Array(live), Value::Array(applied)) => match place.list() {
            List::Atomic => live.clone_from(applied),
            List::Set => {
                for item in applied {
                    if !live.contains(item) {
                        live.push(item.clone());
                    }
                }
            }
            List::Map(keys) => {
                for item in applied {
                    let wanted = key(item, &keys);
                    match live.iter_mut().find(|live| key(live, &keys) == wanted) {
                        Some(below) => merge(below, item, place.item()),
                        None => live.push(item.clone()),
                    }
                }
            }
        },
        (live, applied) => live.clone_from(applied),
    }
}

/// Removes the field at `path`.
pub(crate) fn remove(value: &mut Value, path: &[String], place: Place<'_>) {
    let Some((step, rest)) = path.split_first() else {
        return;
    };
    match value {
        Value::Object(map) => {
            let name = step.trim_start_matches("f:");
            if rest.is_empty() {
                map.remove(name);
            } else if let Some(below) = map.get_mut(name) {
                remove(below, rest, place.field(name));
            }
        }
        Value::Array(list) => {
            let keys = keys(place);
            let is_key = |field: &String| keys.iter().any(|key| *field == format!("f:{key}"));
            if rest.is_empty() {
                list.retain(|item| !is_step(item, step, &keys));
            } else if rest.len() == 1 && is_key(&rest[0]) {
                // An item without its key would be no item any more.
            } else if let Some(item) = list.iter_mut().find(|item| is_step(item, step, &keys)) {
                remove(item, rest, place.item());
            }
        }
        _ => {}
    }
}

/// Whether the field at `path` is a map or a list without anything in it.
pub(crate) fn is_empty(value: &Value, path: &[String], place: Place<'_>) -> bool {
    match (value, path.split_first()) {
        (Value::Object(map), None) => map.is_empty(),
        (Value::Array(list), None) => list.is_empty(),
        (Value::Object(map), Some((step, rest))) => {
            let name = step.trim_start_matches("f:");
            map.get(name)
                .is_some_and(|below| is_empty(below, rest, place.field(name)))
        }
        (Value::Array(list), Some((step, rest))) => {
            let keys = keys(place);
            let item = list.iter().find(|item| is_step(item, step, &keys));
            item.is_some_and(|item| is_empty(item, rest, place.item()))
        }
        _ => false,
    }
}

fn keys(place: Place<'_>) -> Vec<String> {
    match place.list() {
        List::Map(keys) => keys,
        _ => Vec::new(),
    }
}

/// Whether an item is the one a step leads to.
fn is_step(item: &Value, step: &str, keys: &[String]) -> bool {
    match step.strip_prefix("v:") {
        Some(text) => serde_json::from_str::<Value>(text).is_ok_and(|wanted| wanted == *item),
        None => item_step(item, keys) == step,
    }
}

/// As `fieldsV1`.
pub(crate) fn to_json(set: &Set) -> Value {
    let mut root = json!({});
    for path in set {
        let mut node = &mut root;
        for step in path {
            node = crate::object::map(node)
                .entry(step.clone())
                .or_insert_with(|| json!({}));
        }
        // Told apart from a node that is only on the way: those get it at the end.
        crate::object::map(node).insert(".".into(), json!({}));
    }
    tidy(&mut root);
    root
}

/// A member without anything below it is written without its mark.
fn tidy(node: &mut Value) {
    let map = crate::object::map(node);
    if map.len() == 1 && map.contains_key(".") {
        map.clear();
    }
    for (step, below) in map.iter_mut() {
        if step != "." {
            tidy(below);
        }
    }
}

/// From `fieldsV1`.
pub(crate) fn from_json(json: &Value) -> Set {
    let mut set = Set::new();
    for (step, below) in json.as_object().into_iter().flatten() {
        read(below, vec![step.clone()], &mut set);
    }
    set
}

fn read(node: &Value, path: Path, set: &mut Set) {
    let map = node.as_object();
    if map.is_none_or(Map::is_empty) {
        set.insert(path);
        return;
    }
    for (step, below) in map.into_iter().flatten() {
        if step == "." {
            set.insert(path.clone());
        } else {
            let mut path = path.clone();
            path.push(step.clone());
            read(below, path, set);
        }
    }
}

/// As messages show a field: `.spec.containers[name="a"].image`.
pub(crate) fn shown(path: &[String]) -> String {
    let mut text = String::new();
    for step in path {
        if let Some(name) = step.strip_prefix("f:") {
            text.push('.');
            text.push_str(name);
        } else if let Some(keys) = step.strip_prefix("k:") {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<_> = keys
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            text.push_str(&format!("[{}]", keys.join(",")));
        } else if let Some(item) = step.strip_prefix("v:") {
            text.push_str(&format!("[={item}]"));
        }
    }
    text
}

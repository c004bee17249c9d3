//! Patches: JSON (RFC 6902), merge (RFC 7386) and strategic merge.
//! <https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/>

use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::lists;
use crate::schema::List;

/// Most operations of a JSON patch.
const OPERATIONS: usize = 10_000;

/// The kinds of patches that need nothing but the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patch {
    /// `application/json-patch+json`
    Json,
    /// `application/merge-patch+json`
    Merge,
    /// `application/strategic-merge-patch+json`
    Strategic,
}

impl Patch {
    /// Applies `patch` to `object`.
    ///
    /// # Errors
    /// The patch is malformed, or does not fit the object.
    pub fn apply(self, object: &mut Value, patch: Value) -> Result<(), Failure> {
        match self {
            Self::Json => json(object, patch),
            Self::Merge => {
                json_patch::merge(object, &patch);
                Ok(())
            }
            Self::Strategic => strategic(object, patch, ""),
        }
    }
}

fn json(object: &mut Value, patch: Value) -> Result<(), Failure> {
    let patch: json_patch::Patch = serde_json::from_value(patch)
        .map_err(|error| Failure::bad_request(format!("the JSON patch is malformed: {error}")))?;
    if patch.0.len() > OPERATIONS {
        let message = format!("the JSON patch has more than {OPERATIONS} operations");
        return Err(Failure::bad_request(message));
    }
    json_patch::patch(object, &patch).map_err(|error| {
        Failure::unprocessable(format!(
            "the server rejected our request due to an error in our request: {error}"
        ))
    })
}

/// Merges `patch` into the value of the field `name`.
fn strategic(target: &mut Value, patch: Value, name: &str) -> Result<(), Failure> {
    match patch {
        Value::Object(patch) => strategic_map(target, patch),
        Value::Array(patch) => strategic_list(target, patch, name),
        other => {
            *target = other;
            Ok(())
        }
    }
}

fn strategic_map(target: &mut Value, mut patch: Map<String, Value>) -> Result<(), Failure> {
    match patch.remove("$patch").as_ref().and_then(Value::as_str) {
        Some("replace") => {
            *target = Value::Object(patch);
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        _ => {}
    }
    let target = crate::object::map(target);
    if let Some(Value::Array(kept)) = patch.remove("$retainKeys") {
        target.retain(|name, _| kept.iter().any(|kept| kept == name));
    }
    let mut orders = Vec::new();
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            if let Some(Value::Array(items)) = target.get_mut(list) {
                items.retain(|item| !value.as_array().is_some_and(|gone| gone.contains(item)));
            }
        } else if let Some(list) = name.strip_prefix("$setElementOrder/") {
            orders.push((list.to_owned(), value));
        } else if value.is_null() {
            target.remove(&name);
        } else {
            let below = target.entry(name.clone()).or_insert(Value::Null);
            strategic(below, value, &name)?;
        }
    }
    for (name, order) in orders {
        if let (Some(Value::Array(items)), Value::Array(order)) = (target.get_mut(&name), order) {
            sort(items, &order, &name);
        }
    }
    Ok(())
}

fn strategic_list(target: &mut Value, patch: Vec<Value>, name: &str) -> Result<(), Failure> {
    let replace = |item: &Value| item["$patch"] == "replace";
    if !target.is_array() || patch.iter().any(replace) {
        *target = Value::Array(Vec::new());
    }
    let Value::Array(items) = target else {
        return Ok(());
    };
    match lists::strategic(name, patch.first()) {
        List::Atomic => *items = patch.into_iter().filter(|item| !replace(item)).collect(),
        List::Set => {
            for item in patch {
                if !items.contains(&item) {
                    items.push(item);
                }
            }
        }
        List::Map(keys) => {
            let key = &keys[0];
            for item in patch.into_iter().filter(|item| !replace(item)) {
                keyed(items, item, key, name)?;
            }
        }
    }
    Ok(())
}

fn keyed(items: &mut Vec<Value>, patch: Value, key: &str, name: &str) -> Result<(), Failure> {
    let Some(wanted) = patch.get(key) else {
        let message = format!("map: {patch} does not contain declared merge key: {key} ({name})");
        return Err(Failure::bad_request(message));
    };
    let found = items.iter().position(|item| item.get(key) == Some(wanted));
    if patch["$patch"] == "delete" {
        if let Some(found) = found {
            items.remove(found);
        }
        return Ok(());
    }
    match found {
        Some(found) => strategic(&mut items[found], patch, ""),
        None => {
            let mut item = Value::Null;
            strategic(&mut item, patch, "")?;
            items.push(item);
            Ok(())
        }
    }
}

/// Items the order names come in that order, the others after them as they were.
fn sort(items: &mut [Value], order: &[Value], name: &str) {
    let key = match lists::strategic(name, items.first()) {
        List::Map(keys) => keys.into_iter().next(),
        _ => None,
    };
    items.sort_by_key(|item| {
        let same = |other: &Value| match &key {
            Some(key) => other.get(key) == item.get(key),
            None => other == item,
        };
        order.iter().position(same).unwrap_or(usize::MAX)
    });
}

#[cfg(test)]
mod tests;

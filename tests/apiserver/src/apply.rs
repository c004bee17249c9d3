//! Server-side apply, and who manages which field.
//! <https://kubernetes.io/docs/reference/using-api/server-side-apply/>

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::failure::{Cause, Failure};
use crate::fields::{self, Path, Set};
use crate::lists::Place;
use crate::object::{self, items, text};

/// Who writes, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Actor {
    pub(crate) manager: String,
    /// Whether it applies; it updates otherwise.
    pub(crate) applies: bool,
    pub(crate) api_version: String,
    pub(crate) subresource: String,
    /// RFC 3339.
    pub(crate) time: String,
}

#[derive(Debug, Clone)]
struct Entry {
    actor: Actor,
    fields: Set,
}

impl Actor {
    fn is(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.applies == other.applies
            && self.subresource == other.subresource
            // Appliers are told apart by version no more than people are.
            && (self.applies || self.api_version == other.api_version)
    }
}

fn read(object: &Value) -> Vec<Entry> {
    let entries = items(object, &["metadata", "managedFields"]).iter();
    let entries = entries.filter(|entry| entry.get("manager").is_some());
    let entries = entries.map(|entry| Entry {
        actor: Actor {
            manager: text(entry, &["manager"]).into(),
            applies: text(entry, &["operation"]) == "Apply",
            api_version: text(entry, &["apiVersion"]).into(),
            subresource: text(entry, &["subresource"]).into(),
            time: text(entry, &["time"]).into(),
        },
        fields: fields::from_json(&entry["fieldsV1"]),
    });
    entries.collect()
}

fn write(object: &mut Value, entries: &[Entry]) {
    let entries = entries.iter().filter(|entry| !entry.fields.is_empty());
    let entries: Vec<_> = entries
        .map(|Entry { actor, fields }| {
            let mut entry = json!({
                "manager": actor.manager,
                "operation": if actor.applies { "Apply" } else { "Update" },
                "apiVersion": actor.api_version,
                "time": actor.time,
                "fieldsType": "FieldsV1",
                "fieldsV1": fields::to_json(fields),
            });
            if !actor.subresource.is_empty() {
                entry["subresource"] = json!(actor.subresource);
            }
            entry
        })
        .collect();
    let entries = (!entries.is_empty()).then_some(Value::Array(entries));
    object::set(object::metadata(object), "managedFields", entries);
}

/// What is new or other in `new`, and what is gone.
fn compare(old: &Value, new: &Value, place: Place<'_>) -> (Set, Set) {
    let (old, new) = (fields::leaves(old, place), fields::leaves(new, place));
    // A map whose last field has gone is empty now, and yet nobody has set it.

    let emptied = |path: &Path, value: &Value| {
        let empty = *value == json!({}) || *value == json!([]);
        empty
            && old
                .keys()
                .any(|other| other != path && other.starts_with(path))
    };
    let changed = new
        .iter()
        .filter(|(path, value)| old.get(*path) != Some(*value) && !emptied(path, value));
    let gone = old.keys().filter(|path| !new.contains_key(*path));
    (
        changed.map(|(path, _)| path.clone()).collect(),
        gone.cloned().collect(),
    )
}

/// Writes down in `new` that `actor` made it of `old`.
pub(crate) fn updated(old: &Value, new: &mut Value, place: Place<'_>, actor: &Actor) {
    // Sent empty, it takes all fields away from everybody.
    let reset = items(new, &["metadata", "managedFields"]) == [json!({})];
    let mut entries = if reset { Vec::new() } else { read(old) };
    let (changed, gone) = compare(old, new, place);
    for entry in &mut entries {
        entry
            .fields
            .retain(|path| !gone.contains(path) && !changed.contains(path));
    }
    record(&mut entries, actor, |fields| fields.extend(changed));
    write(new, &entries);
}

/// Changes the fields of `actor`; the time moves only when they do.
fn record(entries: &mut Vec<Entry>, actor: &Actor, change: impl FnOnce(&mut Set)) {
    let at = match entries.iter().position(|entry| entry.actor.is(actor)) {
        Some(at) => at,
        None => {
            entries.push(Entry {
                actor: actor.clone(),
                fields: Set::new(),
            });
            entries.len() - 1
        }
    };
    let entry = &mut entries[at];
    let before = entry.fields.clone();
    change(&mut entry.fields);
    if entry.fields != before {
        entry.actor = actor.clone();
    }
}

/// The object `live` becomes when `actor` applies `applied`.
///
/// # Errors
/// Others manage fields it changes, and it does not use `force`.
pub(crate) fn apply(
    live: &Value,
    applied: &Value,
    place: Place<'_>,
    actor: &Actor,
    force: bool,
) -> Result<Value, Failure> {
    let mut applied = applied.clone();
    without_nulls(&mut applied);
    let wanted: Set = fields::leaves(&applied, place).into_keys().collect();
    let mut entries = read(live);
    let mut merged = live.clone();
    fields::merge(&mut merged, &applied, place);
    abandon(&mut merged, &entries, &wanted, actor, place);
    let (changed, gone) = compare(live, &merged, place);
    let conflicts = conflicts(&entries, &changed, actor);
    if !conflicts.is_empty() && !force {
        return Err(Failure::apply_conflicts(&conflicts));
    }
    for entry in entries.iter_mut().filter(|entry| !entry.actor.is(actor)) {
        entry
            .fields
            .retain(|path| !changed.contains(path) && !gone.contains(path));
    }
    record(&mut entries, actor, |fields| *fields = wanted);
    write(&mut merged, &entries);
    Ok(merged)
}

/// Removes what `actor` applied before and no longer wants, and nobody else manages.
fn abandon(object: &mut Value, entries: &[Entry], wanted: &Set, actor: &Actor, place: Place<'_>) {
    let (own, others): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.actor.is(actor));
    let others = others.into_iter().flat_map(|entry| &entry.fields);
    let managed: BTreeSet<_> = others.chain(wanted).collect();
    // Something below it may be managed though it is not itself.
    let free = |path: &[String]| !managed.iter().any(|other| other.starts_with(path));
    let mut gone: Vec<_> = own.into_iter().flat_map(|entry| &entry.fields).collect();
    gone.retain(|path| free(path));
    // An item goes as a whole, before what is in it.
    gone.sort_by_key(|path| path.len());
    for path in gone {
        fields::remove(object, path, place);
        for length in (1..path.len()).rev() {
            let around = &path[..length];
            if !free(around) || !fields::is_empty(object, around, place) {
                break;
            }
            fields::remove(object, around, place);
        }
    }
}

fn conflicts(entries: &[Entry], changed: &Set, actor: &Actor) -> Vec<Cause> {
    let others = entries.iter().filter(|entry| !entry.actor.is(actor));
    let conflicts = others.flat_map(|entry| {
        entry.fields.intersection(changed).map(|path| {
            let with = match entry.actor.subresource.as_str() {
                "" => String::new(),
                subresource => format!(" with subresource \"{subresource}\""),
            };
            let message = format!(
                "conflict with \"{}\"{with} using {}",
                entry.actor.manager, entry.actor.api_version
            );
            Cause::new(&fields::shown(path), "FieldManagerConflict", message)
        })
    });
    conflicts.collect()
}

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests;

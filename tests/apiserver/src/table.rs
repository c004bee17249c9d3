//! The forms objects are shown in: whole, their metadata, or a row of a table.
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables>

use std::time::{Duration, SystemTime};

use jsonpath_rust::JsonPath;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::object::{self, text};
use crate::resource::{Column, Resource};

/// How objects are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Whole,
    Metadata,
    Table(Rows),
}

/// What a row brings of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    Metadata,
    Whole,
    Nothing,
}

impl Form {
    /// Reads `Accept`, and `includeObject` of the query.
    pub(crate) fn accepted(accept: &str, query: &str) -> Result<Self, Failure> {
        let accept = if accept.is_empty() { "*/*" } else { accept };
        let found = accept.split(',').take(32).find_map(|media| {
            let mut parts = media.split(';').map(str::trim);
            if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
                return None;
            }
            let form = parts
                .find_map(|part| part.strip_prefix("as="))
                .unwrap_or_default();
            match form {
                "" => Some(Self::Whole),
                "Table" => Some(Self::Table(rows(query))),
                "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Self::Metadata),
                _ => None,
            }
        });
        found.ok_or_else(Failure::not_acceptable)
    }

    /// One object.
    pub(crate) fn object(self, resource: &Resource, object: Value) -> Value {
        match self {
            Self::Whole => object,
            Self::Metadata => metadata(object),
            Self::Table(rows) => {
                let version = text(&object, &["metadata", "resourceVersion"]).to_owned();
                table(
                    resource,
                    rows,
                    vec![object],
                    &json!({ "resourceVersion": version }),
                )
            }
        }
    }

    /// A list, with the list's metadata.
    pub(crate) fn list(self, resource: &Resource, items: Vec<Value>, about: &Value) -> Value {
        let (version, kind, items) = match self {
            Self::Table(rows) => return table(resource, rows, items, about),
            Self::Whole => (resource.api_version(), resource.list_kind.as_str(), items),
            Self::Metadata => (
                "meta.k8s.io/v1".to_owned(),
                "PartialObjectMetadataList",
                items.into_iter().map(metadata).collect(),
            ),
        };
        json!({ "kind": kind, "apiVersion": version, "metadata": about, "items": items })
    }
}

fn rows(query: &str) -> Rows {
    let included =
        form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "includeObject");
    match included.as_ref().map(|(_, value)| &**value) {
        Some("Object") => Rows::Whole,
        Some("None") => Rows::Nothing,
        _ => Rows::Metadata,
    }
}

fn metadata(mut object: Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"].take(),
    })
}

fn table(resource: &Resource, rows: Rows, items: Vec<Value>, about: &Value) -> Value {
    let columns = columns(resource);
    let paths: Vec<_> = columns.iter().map(|column| path(&column.path)).collect();
    let shown: Vec<_> = items
        .into_iter()
        .map(|item| {
            let cells = columns.iter().zip(&paths);
            let cells: Vec<_> = cells
                .map(|(column, path)| cell(column, path, &item))
                .collect();
            let object = match rows {
                Rows::Whole => item,
                Rows::Metadata => metadata(item),
                Rows::Nothing => Value::Null,
            };
            json!({ "cells": cells, "object": object })
        })
        .collect();
    let definitions: Vec<_> = columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name, "type": column.kind, "format": column.format,
                "description": column.description, "priority": column.priority,
            })
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": about,
        "columnDefinitions": definitions, "rows": shown,
    })
}

fn columns(resource: &Resource) -> Vec<Column> {
    let column = |name: &str, kind: &str, format: &str, path: &str| Column {
        name: name.into(),
        kind: kind.into(),
        format: format.into(),
        description: String::new(),
        priority: 0,
        path: path.into(),
    };
    let mut all = vec![column("Name", "string", "name", ".metadata.name")];
    if resource.columns.is_empty() {
        all.push(column("Age", "date", "", ".metadata.creationTimestamp"));
    } else {
        all.extend(resource.columns.iter().cloned());
    }
    all
}

/// Kubernetes' paths have no `$` and escape dots in names.
fn path(path: &str) -> String {
    let path = path.trim().trim_start_matches('{').trim_end_matches('}');
    let mut out = String::from("$");
    for (index, part) in path.replace("\\.", "\u{0}").split('.').enumerate() {
        match (index, part.contains('\u{0}')) {
            (0, _) => out.push_str(part),
            (_, true) => out.push_str(&format!("['{}']", part.replace('\u{0}', "."))),
            (_, false) => out.push_str(&format!(".{part}")),
        }
    }
    out
}

fn cell(column: &Column, path: &str, object: &Value) -> Value {
    let found = object.query(path).unwrap_or_default();
    let Some(first) = found.first() else {
        return Value::Null;
    };
    match column.kind.as_str() {
        "date" => Value::from(age(first.as_str().unwrap_or_default())),
        "string" if found.len() > 1 => {
            let all: Vec<_> = found.iter().map(|value| plain(value)).collect();
            Value::from(all.join(","))
        }
        "string" => Value::from(plain(first)),
        _ => (*first).clone(),
    }
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn age(time: &str) -> String {
    let then = humantime::parse_rfc3339_weak(time).ok();
    match then.map(|then| SystemTime::now().duration_since(then).unwrap_or_default()) {
        Some(age) => human(age),
        None => "<unknown>".to_owned(),
    }
}

/// As `k8s.io/apimachinery/pkg/util/duration.HumanDuration` says it.
fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |large: u64, unit: char, small: u64, part: char| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{part}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        _ => two(days / 365, 'y', days % 365, 'd'),
    }
}

/// A table of an object for which there is no object: a bookmark.
pub(crate) fn bookmark(form: Form, resource: &Resource, about: &Value) -> Value {
    match form {
        Form::Table(_) => table(resource, Rows::Nothing, Vec::new(), about),
        Form::Metadata => json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": about,
        }),
        Form::Whole => {
            let mut object = json!({ "metadata": about });
            object::map(&mut object).insert("kind".into(), json!(resource.kind));
            object["apiVersion"] = json!(resource.api_version());
            object
        }
    }
}

#[cfg(test)]
mod tests;

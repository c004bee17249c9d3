//! Serving what definitions define.

use serde_json::{Value, json};

use super::{Cluster, Target, now};
use crate::failure::Failure;
use crate::object::{self, at, text, texts};
use crate::resource::{DEFINITIONS, EXTENSIONS, Resource, from_definition};
use crate::store::Kind;

/// A definition's kind and its versions.
pub(super) type Serving = Option<(Kind, Vec<Resource>)>;

/// Keeps a definition until its objects are gone.
pub(super) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

impl Cluster {
    /// Checks a definition and marks it as served; nothing for other kinds.
    pub(super) fn serving(&self, target: &Target, object: &mut Value) -> Result<Serving, Failure> {
        if target.resource.group != EXTENSIONS || target.resource.plural != DEFINITIONS {
            return Ok(None);
        }
        let versions = from_definition(object)
            .map_err(|causes| Failure::invalid(&target.resource, &target.name, &causes))?;
        let kind = Kind {
            group: text(object, &["spec", "group"]).into(),
            plural: text(object, &["spec", "names", "plural"]).into(),
        };
        if self
            .registry
            .of_kind(&kind)
            .is_some_and(|served| !served.custom)
        {
            let why = format!("{} is built in", target.name);
            return Err(Failure::forbidden(&target.resource, &target.name, &why));
        }
        status(object, &versions);
        Ok(Some((kind, versions)))
    }

    pub(super) fn serve(&mut self, serving: Serving) {
        if let Some((kind, versions)) = serving {
            self.registry.serve(&kind, versions);
        }
    }
}

fn status(definition: &mut Value, versions: &[Resource]) {
    let before = at(definition, &["status", "conditions"]).cloned();
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": "True", "lastTransitionTime": now(),
            "reason": reason, "message": message,
        })
    };
    let conditions = before.unwrap_or_else(|| {
        json!([
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition(
                "Established",
                "InitialNamesAccepted",
                "the initial names have been accepted"
            ),
        ])
    });
    let mut names = definition["spec"]["names"].clone();
    if let Some(first) = versions.first() {
        names["listKind"] = json!(first.list_kind);
        names["singular"] = json!(first.singular);
        definition["spec"]["names"] = names.clone();
    }
    let mut stored = texts(definition, &["status", "storedVersions"]);
    for version in object::items(definition, &["spec", "versions"]) {
        let name = text(version, &["name"]).to_owned();
        if version["storage"] == Value::Bool(true) && !stored.contains(&name) {
            stored.push(name);
        }
    }
    definition["status"] = json!({
        "acceptedNames": names, "conditions": conditions, "storedVersions": stored,
    });
    let finalizers = object::map(&mut definition["metadata"])
        .entry("finalizers")
        .or_insert_with(|| json!([]));
    if let Value::Array(finalizers) = finalizers
        && !finalizers.contains(&json!(CLEANUP))
    {
        finalizers.push(json!(CLEANUP));
    }
}

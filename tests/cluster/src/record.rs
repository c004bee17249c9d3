//! What a cluster is like, as far as the operator could change it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, ListParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::Error;
use crate::objects;

/// What is compared: a line about each thing, by its name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record(BTreeMap<String, String>);

/// What the nodes, the runtime classes and the definitions are, and which of
/// the objects that will be applied are there.
pub(crate) async fn record(client: &Client, own: &[DynamicObject]) -> Result<Record, Error> {
    let mut found = BTreeMap::new();
    let all = ListParams::default();
    let nodes: Api<Node> = Api::all(client.clone());
    for node in nodes.list(&all).await.map_err(Error::api("list nodes"))? {
        let annotations = node.annotations().iter();
        let annotations: BTreeMap<_, _> = annotations.filter(|(key, _)| ours(key)).collect();
        let spec = node.spec.as_ref();
        let taints = spec.and_then(|spec| spec.taints.as_ref());
        let closed = spec.and_then(|spec| spec.unschedulable);
        let text = json!([node.labels(), annotations, taints, closed]).to_string();
        found.insert(format!("Node {}", node.name_any()), text);
    }
    let classes: Api<RuntimeClass> = Api::all(client.clone());
    let failed = Error::api("list runtime classes");
    for class in classes.list(&all).await.map_err(failed)? {
        let name = format!("RuntimeClass {}", class.name_any());
        let text = json!([class.handler, class.overhead, class.scheduling]).to_string();
        found.insert(name, text);
    }
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let failed = Error::api("list definitions");
    let definitions = definitions.list_metadata(&all).await.map_err(failed)?;
    for definition in definitions {
        let name = format!("CustomResourceDefinition {}", definition.name_any());
        found.insert(name, String::new());
    }
    for object in own {
        if objects::is_there(client, object).await? {
            found.insert(objects::shown(object), String::new());
        }
    }
    Ok(Record(found))
}

/// Whether an annotation is one the operator could write.
fn ours(key: &str) -> bool {
    key.starts_with(bulkhead_kataconfig::GROUP)
}

impl Record {
    /// What is in the way of a trial.
    pub(crate) fn obstacles(&self, own: &[DynamicObject]) -> Vec<String> {
        let names = own.iter().map(objects::shown);
        let class = format!("RuntimeClass {}", bulkhead_kataconfig::DEFAULT_HANDLER);
        let mut names: Vec<_> = names.chain([class]).collect();
        names.retain(|name| self.0.contains_key(name));
        names
    }

    /// What differs, one line each.
    pub(crate) fn differences(&self, after: &Self) -> Vec<String> {
        let names: BTreeSet<_> = self.0.keys().chain(after.0.keys()).collect();
        let differs = |name: &&&String| self.0.get(**name) != after.0.get(**name);
        let told = |name: &String| match (self.0.get(name), after.0.get(name)) {
            (Some(_), None) => format!("{name} is gone"),
            (None, Some(_)) => format!("{name} is left"),
            (before, after) => format!("{name} was {before:?} and is {after:?}"),
        };
        names
            .iter()
            .filter(differs)
            .map(|name| told(name))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(things: &[(&str, &str)]) -> Record {
        let things = things.iter();
        Record(
            things
                .map(|(name, text)| ((*name).into(), (*text).into()))
                .collect(),
        )
    }

    #[test]
    fn every_difference_is_told_and_nothing_else() {
        let before = record(&[("a", "1"), ("b", "1"), ("c", "1")]);
        let after = record(&[("a", "1"), ("b", "2"), ("d", "1")]);
        let told = before.differences(&after);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].starts_with("b was") && told[1] == "c is gone" && told[2] == "d is left");
        assert!(before.differences(&before).is_empty());
    }
}

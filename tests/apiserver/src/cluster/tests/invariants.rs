//! What holds whatever is done.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::super::*;
use super::{at, map, query};
use crate::object;
use crate::patch::Patch;
use crate::watch::Watch;

#[derive(Debug, Clone)]
enum Step {
    Create {
        name: u8,
        owner: Option<u8>,
        held: bool,
    },
    Label(u8, u8),
    Free(u8),
    Delete(u8, &'static str),
    Apply(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0u8..6;
    let how = prop_oneof![
        Just(""),
        Just("Foreground"),
        Just("Orphan"),
        Just("Background")
    ];
    prop_oneof![
        4 => (name(), prop::option::of(name()), any::<bool>())
            .prop_map(|(name, owner, held)| Step::Create { name, owner, held }),
        2 => (name(), 0u8..3).prop_map(|(name, value)| Step::Label(name, value)),
        2 => name().prop_map(Step::Free),
        3 => (name(), how).prop_map(|(name, how)| Step::Delete(name, how)),
        2 => (name(), 0u8..3).prop_map(|(name, value)| Step::Apply(name, value)),
    ]
}

fn named(cluster: &Cluster, number: u8) -> Target {
    at(cluster, "configmaps", "default", &format!("x{number}"))
}

/// Refusals are part of life here.
fn run(cluster: &mut Cluster, step: &Step) {
    let none = query("");
    match *step {
        Step::Create { name, owner, held } => {
            let mut object = map(&format!("x{name}"));
            if let Some(Ok(owner)) = owner.map(|owner| cluster.get(&named(cluster, owner))) {
                object["metadata"]["ownerReferences"] = json!([{
                    "apiVersion": "v1", "kind": "ConfigMap", "name": object::name(&owner),
                    "uid": object::uid(&owner), "blockOwnerDeletion": true,
                }]);
            }
            if held {
                object["metadata"]["finalizers"] = json!(["sea.example/anchor"]);
            }
            let _ = cluster.load(object);
        }
        Step::Label(name, value) => {
            let target = named(cluster, name);
            let patch = json!({ "metadata": { "labels": { "v": value.to_string() } } });
            let _ = cluster.patch(&target, Patch::Merge, patch, &none);
        }
        Step::Free(name) => {
            let target = named(cluster, name);
            let patch = json!({ "metadata": { "finalizers": null } });
            let _ = cluster.patch(&target, Patch::Merge, patch, &none);
        }
        Step::Delete(name, how) => {
            let target = named(cluster, name);
            let how = query(&format!("propagationPolicy={how}"));
            let _ = cluster.delete(&target, &Value::Null, &how);
        }
        Step::Apply(name, value) => {
            let target = named(cluster, name);
            let applied = json!({ "data": { "v": value.to_string() } });
            let _ = cluster.apply(&target, applied, &query("fieldManager=m&force=true"));
        }
    }
}

fn all(cluster: &Cluster) -> Vec<Arc<Value>> {
    let target = at(cluster, "configmaps", "", "");
    cluster.list(&target, &Query::default()).unwrap().items
}

proptest! {
    #[test]
    fn finalizers_and_owners_are_respected(steps in prop::collection::vec(step(), 0..40)) {
        let mut cluster = Cluster::new(1000);
        for step in &steps {
            let before = all(&cluster);
            run(&mut cluster, step);
            let after = all(&cluster);
            let lives = |uid: &str| after.iter().any(|object| object::uid(object) == uid);
            for gone in before.iter().filter(|object| !lives(object::uid(object))) {
                let held = object::finalizers(gone).iter().any(|own| own == "sea.example/anchor");
                let freed = matches!(step, Step::Free(name) if object::name(gone) == format!("x{name}"));
                prop_assert!(!held || freed, "gone while held: {}", gone);
            }
            for object in &after {
                // One that goes has a reason to be there still.
                prop_assert!(
                    !object::terminating(object) || !object::finalizers(object).is_empty(),
                    "{}", object
                );
                // One whose owners are all gone goes too.
                let owners = object::owners(object);
                prop_assert!(
                    owners.is_empty() || object::terminating(object)
                        || owners.iter().all(|uid| lives(uid)),
                    "{}", object
                );
            }
        }
    }

    /// A watch from any moment, read at any times, shows what a list at the end shows.
    #[test]
    fn a_watch_shows_what_a_list_shows(
        steps in prop::collection::vec((step(), any::<bool>()), 0..40),
        begin in 0usize..40,
        only in prop::option::of(0u8..3),
    ) {
        let mut cluster = Cluster::new(1000);
        let (before, after) = steps.split_at(begin.min(steps.len()));
        before.iter().for_each(|(step, _)| run(&mut cluster, step));
        let target = at(&cluster, "configmaps", "default", "");
        let selector = only.map(|value| format!("labelSelector=v%3D{value}")).unwrap_or_default();
        let query = query(&selector);
        let list = |cluster: &Cluster| -> BTreeMap<String, u64> {
            let page = cluster.list(&target, &query).unwrap();
            let items = page.items.iter();
            items.map(|item| (object::name(item).to_owned(), object::version(item))).collect()
        };
        let mut seen = list(&cluster);
        let from = Query { version: cluster.store.version().to_string(), ..query.clone() };
        let form = crate::table::Form::Whole;
        let (mut watch, mut events) = Watch::begin(&cluster, &target, &from, form).unwrap();
        for (step, read) in after {
            run(&mut cluster, step);
            if *read {
                events.extend(watch.next(&cluster).unwrap());
            }
        }
        events.extend(watch.next(&cluster).unwrap());
        let mut last = 0;
        for event in events {
            let object = &event["object"];
            let (name, version) = (object::name(object).to_owned(), object::version(object));
            prop_assert!(version > last);
            last = version;
            let known = match event["type"].as_str().unwrap() {
                "DELETED" => seen.remove(&name).is_some(),
                "ADDED" => seen.insert(name, version).is_none(),
                _ => seen.insert(name, version).is_some(),
            };
            prop_assert!(known, "{}", event);
        }
        prop_assert_eq!(seen, list(&cluster));
    }

    /// Pages of a list are of one moment, whatever happens between them.
    #[test]
    fn pages_are_of_one_moment(
        before in prop::collection::vec(step(), 0..20),
        between in prop::collection::vec(step(), 0..20),
        limit in 1usize..4,
    ) {
        let mut cluster = Cluster::new(1000);
        before.iter().for_each(|step| run(&mut cluster, step));
        let target = at(&cluster, "configmaps", "default", "");
        let whole = cluster.list(&target, &Query::default()).unwrap();
        let mut query = Query { limit, ..Query::default() };
        let mut items = Vec::new();
        let mut steps = between.iter();
        loop {
            let page = cluster.list(&target, &query).unwrap();
            prop_assert_eq!(page.version, whole.version);
            items.extend(page.items);
            if page.token.is_empty() {
                break;
            }
            query.token = page.token;
            steps.by_ref().take(3).for_each(|step| run(&mut cluster, step));
        }
        prop_assert_eq!(items, whole.items);
    }
}

//! The rules of the API, over the store. No IO: a request is answered by one call.

mod delete;
mod evict;
mod names;
mod read;
mod rules;
mod serve;
mod write;

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::apply::Actor;
use crate::failure::Failure;
use crate::query::Query;
use crate::resource::{Registry, Resource};
use crate::store::{Kind, Name, Store};

pub use delete::Deleted;
pub use read::Page;
pub(crate) use read::Selectors;

/// What a request is about.
#[derive(Debug, Clone)]
pub struct Target {
    /// The kind.
    pub resource: Arc<Resource>,
    /// Empty for none, or all.
    pub namespace: String,
    /// Empty for a collection.
    pub name: String,
    /// Empty, or for instance `status`.
    pub subresource: String,
}

impl Target {
    pub(crate) fn kind(&self) -> Kind {
        self.resource.store_kind()
    }

    pub(crate) fn key(&self) -> Name {
        Name {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

/// A whole cluster's state, and what may be done with it.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    uids: u64,
    names: u64,
}

/// Namespaces every cluster has.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

impl Cluster {
    /// A cluster with its first namespaces and nothing else, remembering `history` changes.
    #[must_use]
    pub fn new(history: usize) -> Self {
        let mut cluster = Self {
            store: Store::new(history),
            registry: Registry::default(),
            uids: 0,
            names: 0,
        };
        for name in NAMESPACES {
            let namespace = json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name }
            });
            // Nothing is in its way in an empty cluster.
            if let Err(failure) = cluster.load(namespace) {
                unreachable!("the namespace {name} cannot be made: {failure}");
            }
        }
        cluster
    }

    /// Creates an object of any kind served, as an administrator would.
    ///
    /// # Errors
    /// The kind is not served, or the object is refused.
    pub fn load(&mut self, object: Value) -> Result<Arc<Value>, Failure> {
        let resource = self.registry.of_object(&object).cloned();
        let resource = resource.ok_or_else(Failure::no_such_path)?;
        let mut namespace = crate::object::namespace(&object).to_owned();
        if resource.namespaced && namespace.is_empty() {
            "default".clone_into(&mut namespace);
        }
        let target = Target {
            resource,
            namespace,
            name: String::new(),
            subresource: String::new(),
        };
        let query = Query {
            manager: "loaded".into(),
            ..Query::default()
        };
        self.create(&target, object, &query)
    }

    /// Changes an object in place, without asking the rules.
    pub(crate) fn edit(
        &mut self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<(), Failure> {
        let resource = self.registry.of_kind(kind).cloned();
        let resource = resource.ok_or_else(Failure::no_such_path)?;
        let key = Name {
            namespace: namespace.into(),
            name: name.into(),
        };
        let live = self.store.get(kind, &key);
        let live = live.ok_or_else(|| Failure::not_found(&resource, name))?;
        let mut object = Value::clone(live);
        change(&mut object);
        if object != **live {
            self.store.put(kind, &key, object);
        }
        Ok(())
    }

    /// A UID no object had before.
    fn uid(&mut self) -> String {
        self.uids += 1;
        let mixed = crate::seed::mix(self.uids);
        let (high, low) = (mixed >> 32, mixed & 0xffff);
        format!("{high:08x}-{low:04x}-4000-8000-{:012x}", self.uids)
    }

    /// An ending for a generated name; five of the characters Kubernetes uses.
    fn ending(&mut self) -> String {
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        self.names += 1;
        let mut mixed = crate::seed::mix(!self.names);
        let mut next = || {
            let letter = LETTERS[(mixed % LETTERS.len() as u64) as usize];
            mixed /= LETTERS.len() as u64;
            letter as char
        };
        (0..5).map(|_| next()).collect()
    }

    fn actor(target: &Target, query: &Query, applies: bool) -> Actor {
        Actor {
            manager: query.manager.clone(),
            applies,
            api_version: target.resource.api_version(),
            subresource: target.subresource.clone(),
            time: now(),
        }
    }
}

/// The time, as objects have it.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests;

//! Objects and the history of their changes, in memory.
//!
//! Every change has a version of its own, greater than every one before; what
//! a list shows and what the changes after it say together is what a later
//! list shows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::object;

/// Group and plural: what all versions of a kind share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// The API group; empty for the core one.
    pub group: String,
    /// The resource's plural name.
    pub plural: String,
}

/// Where an object of a kind is found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The namespace; empty where the kind has none.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// It is new.
    Added,
    /// It has changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// One change.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its version.
    pub version: u64,
    /// Whose.
    pub kind: Kind,
    /// Whose.
    pub name: Name,
    /// What.
    pub happened: Happened,
    /// The object after it; the last one before it was deleted, with the version of the deletion.
    pub object: Arc<Value>,
    /// The object before it.
    pub before: Option<Arc<Value>>,
}

/// The changes asked for are no longer known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("changes after {asked} are no longer known, only those after {oldest}; list again")]
pub struct Forgotten {
    /// The version asked for.
    pub asked: u64,
    /// The oldest from which changes are known.
    pub oldest: u64,
}

/// Everything the server holds.
#[derive(Debug)]
pub struct Store {
    version: u64,
    objects: BTreeMap<Kind, BTreeMap<Name, Arc<Value>>>,
    history: VecDeque<Change>,
    limit: usize,
    oldest: u64,
    forgotten: u64,
}

impl Store {
    /// An empty store that remembers `limit` changes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            version: 1,
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            limit,
            oldest: 1,
            forgotten: 0,
        }
    }

    /// The version of the last change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How often the history was forgotten on request.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// One object.
    #[must_use]
    pub fn get(&self, kind: &Kind, name: &Name) -> Option<&Arc<Value>> {
        self.objects.get(kind)?.get(name)
    }

    /// The objects of a kind by namespace and name; of all namespaces for an empty one.
    pub fn list<'a>(
        &'a self,
        kind: &Kind,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Name, &'a Arc<Value>)> + use<'a> {
        self.objects
            .get(kind)
            .into_iter()
            .flatten()
            .filter(move |(name, _)| namespace.is_empty() || name.namespace == namespace)
    }

    /// Every object.
    pub fn all(&self) -> impl Iterator<Item = (&Kind, &Name, &Arc<Value>)> {
        self.objects.iter().flat_map(|(kind, objects)| {
            objects
                .iter()
                .map(move |(name, object)| (kind, name, object))
        })
    }

    /// Writes an object and gives it as written, with its version.
    pub fn put(&mut self, kind: &Kind, name: &Name, object: Value) -> Arc<Value> {
        let object = self.stamped(object);
        let before = self
            .objects
            .entry(kind.clone())
            .or_default()
            .insert(name.clone(), Arc::clone(&object));
        let happened = match before {
            Some(_) => Happened::Modified,
            None => Happened::Added,
        };
        self.remember(kind, name, happened, &object, before);
        object
    }

    /// Removes an object; `last` is what its watchers see of it.
    pub fn remove(&mut self, kind: &Kind, name: &Name, last: Value) -> Option<Arc<Value>> {
        let before = self.objects.get_mut(kind)?.remove(name)?;
        let last = self.stamped(last);
        self.remember(kind, name, Happened::Deleted, &last, Some(before));
        Some(last)
    }

    /// The changes after `version`, oldest first.
    ///
    /// # Errors
    /// They are no longer known.
    pub fn since(&self, version: u64) -> Result<impl Iterator<Item = &Change>, Forgotten> {
        if version < self.oldest {
            return Err(Forgotten {
                asked: version,
                oldest: self.oldest,
            });
        }
        let start = self
            .history
            .partition_point(|change| change.version <= version);
        Ok(self.history.range(start..))
    }

    /// Forgets all changes.
    pub fn forget(&mut self) {
        self.history.clear();
        self.oldest = self.version;
        self.forgotten += 1;
    }

    fn stamped(&mut self, mut object: Value) -> Arc<Value> {
        self.version += 1;
        let version = json!(self.version.to_string());
        object::metadata(&mut object).insert("resourceVersion".into(), version);
        Arc::new(object)
    }

    fn remember(
        &mut self,
        kind: &Kind,
        name: &Name,
        happened: Happened,
        object: &Arc<Value>,
        before: Option<Arc<Value>>,
    ) {
        self.history.push_back(Change {
            version: self.version,
            kind: kind.clone(),
            name: name.clone(),
            happened,
            object: Arc::clone(object),
            before,
        });
        while self.history.len() > self.limit {
            if let Some(change) = self.history.pop_front() {
                self.oldest = change.version;
            }
        }
    }
}

#[cfg(test)]
mod tests;

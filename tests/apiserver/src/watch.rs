//! What a watch is told.
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>

use serde_json::{Value, json};

use crate::cluster::{Cluster, Selectors, Target};
use crate::failure::Failure;
use crate::query::Query;
use crate::store::{Change, Happened};
use crate::table::{Form, bookmark};

/// Marks the end of the objects there were already.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// A watch of a kind.
#[derive(Debug)]
pub(crate) struct Watch {
    target: Target,
    selectors: Selectors,
    form: Form,
    version: u64,
    forgotten: u64,
}

impl Watch {
    /// Begins a watch, and gives its first events.
    pub(crate) fn begin(
        cluster: &Cluster,
        target: &Target,
        query: &Query,
        form: Form,
    ) -> Result<(Self, Vec<Value>), Failure> {
        let mut watch = Self {
            target: target.clone(),
            selectors: Selectors::of(target, query)?,
            form,
            version: cluster.store.version(),
            forgotten: cluster.store.forgotten(),
        };
        if query.initial_events && (query.version_match != "NotOlderThan" || !query.bookmarks) {
            return Err(Failure::unprocessable(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan and \
                 allowWatchBookmarks",
            ));
        }
        let from: u64 = match query.version.as_str() {
            "" => 0,
            version => version.parse().map_err(|_| {
                Failure::bad_request(format!("invalid resource version: {version}"))
            })?,
        };
        if from != 0 && !query.initial_events {
            watch.version = from;
            return Ok((watch, Vec::new()));
        }
        let mut events = Vec::new();
        for (_, object) in cluster.store.list(&target.kind(), &target.namespace) {
            if watch.selected(object) {
                let object = cluster.shown(target, object);
                events.push(watch.event("ADDED", object));
            }
        }
        if query.initial_events {
            events.push(watch.bookmark(true));
        }
        Ok((watch, events))
    }

    /// The events since the last ones.
    pub(crate) fn next(&mut self, cluster: &Cluster) -> Result<Vec<Value>, Failure> {
        if self.forgotten != cluster.store.forgotten() {
            return Err(Failure::expired(self.version, cluster.store.version()));
        }
        let changes = cluster
            .store
            .since(self.version)
            .map_err(|forgotten| Failure::expired(forgotten.asked, forgotten.oldest))?;
        let kind = self.target.kind();
        let mut events = Vec::new();
        for change in changes.filter(|change| change.kind == kind) {
            events.extend(self.told(cluster, change));
        }
        self.version = self.version.max(cluster.store.version());
        Ok(events)
    }

    /// What a change is to one who sees only what the selectors match.
    fn told(&self, cluster: &Cluster, change: &Change) -> Option<Value> {
        let namespace = &self.target.namespace;
        if !namespace.is_empty() && change.name.namespace != *namespace {
            return None;
        }
        let before = change
            .before
            .as_ref()
            .is_some_and(|before| self.selected(before));
        let now = change.happened != Happened::Deleted && self.selected(&change.object);
        let told = match (before, now) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return None,
        };
        Some(self.event(told, cluster.shown(&self.target, &change.object)))
    }

    fn selected(&self, object: &Value) -> bool {
        let name = &self.target.name;
        (name.is_empty() || crate::object::name(object) == name) && self.selectors.matches(object)
    }

    fn event(&self, told: &str, object: Value) -> Value {
        json!({ "type": told, "object": self.form.object(&self.target.resource, object) })
    }

    /// Tells how far the watch is.
    pub(crate) fn bookmark(&self, end: bool) -> Value {
        let mut about = json!({ "resourceVersion": self.version.to_string() });
        if end {
            about["annotations"] = json!({ INITIAL_END: "true" });
        }
        let object = bookmark(self.form, &self.target.resource, &about);
        json!({ "type": "BOOKMARK", "object": object })
    }
}

/// Tells why a watch ends.
pub(crate) fn error(failure: &Failure) -> Value {
    json!({ "type": "ERROR", "object": failure.status() })
}

#[cfg(test)]
mod tests;

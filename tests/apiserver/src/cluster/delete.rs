//! Deleting: finalizers, owners, namespaces and definitions.
//! <https://kubernetes.io/docs/concepts/architecture/garbage-collection/>

use std::sync::Arc;

use serde_json::{Value, json};

use super::serve::CLEANUP;
use super::{Cluster, Target, now};
use crate::failure::Failure;
use crate::object::{self, metadata, text};
use crate::query::Query;
use crate::resource::{DEFINITIONS, EXTENSIONS};
use crate::store::{Kind, Name};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// What became of an object.
#[derive(Debug)]
pub enum Deleted {
    /// It is gone; this is what it was.
    Gone(Arc<Value>),
    /// It goes when its finalizers are.
    Going(Arc<Value>),
}

impl Cluster {
    /// Deletes an object; `options` is a `DeleteOptions` or null.
    ///
    /// # Errors
    /// There is none, or a precondition fails.
    pub fn delete(
        &mut self,
        target: &Target,
        options: &Value,
        query: &Query,
    ) -> Result<Deleted, Failure> {
        let live = self.get(target)?;
        preconditions(target, &live, options)?;
        let finalizer = match query.propagation.as_str() {
            "Foreground" => Some(FOREGROUND),
            "Orphan" => Some(ORPHAN),
            _ => None,
        };
        if query.dry_run {
            return Ok(Deleted::Gone(live));
        }
        Ok(self.terminate(&target.kind(), &target.key(), &live, finalizer))
    }

    /// Deletes the objects a list would show.
    ///
    /// # Errors
    /// A selector is malformed.
    pub fn delete_collection(
        &mut self,
        target: &Target,
        query: &Query,
    ) -> Result<Vec<Arc<Value>>, Failure> {
        let page = self.list(target, query)?;
        for object in &page.items {
            let one = Target {
                name: object::name(object).to_owned(),
                namespace: object::namespace(object).to_owned(),
                ..target.clone()
            };
            match self.delete(&one, &Value::Null, query) {
                // One may have gone with another.
                Err(failure) if failure.code == 404 => {}
                other => {
                    other?;
                }
            }
        }
        Ok(page.items)
    }

    /// Begins an object's end, and comes to it if nothing holds it.
    fn terminate(
        &mut self,
        kind: &Kind,
        key: &Name,
        live: &Arc<Value>,
        finalizer: Option<&str>,
    ) -> Deleted {
        let mut object = Value::clone(live);
        let mut finalizers = object::finalizers(live);
        if let Some(finalizer) = finalizer
            && !finalizers.iter().any(|other| other == finalizer)
        {
            finalizers.push(finalizer.to_owned());
            metadata(&mut object).insert("finalizers".into(), json!(finalizers));
        }
        if finalizers.is_empty() && self.may_go(kind, &object) {
            let last = self.gone(kind, key, object);
            return Deleted::Gone(last.unwrap_or_else(|| Arc::clone(live)));
        }
        if !object::terminating(&object) {
            if is(kind, "", "namespaces") {
                object["status"] = json!({ "phase": "Terminating" });
            }
            let metadata = metadata(&mut object);
            metadata.insert("deletionTimestamp".into(), json!(now()));
            metadata.insert("deletionGracePeriodSeconds".into(), json!(0));
            if let Some(generation) = metadata.get("generation").and_then(Value::as_u64) {
                metadata.insert("generation".into(), json!(generation + 1));
            }
        }
        let going = match object == **live {
            true => Arc::clone(live),
            false => self.store.put(kind, key, object),
        };
        self.empty(kind, &going);
        self.release();
        match self.store.get(kind, key) {
            Some(still) => Deleted::Going(Arc::clone(still)),
            None => Deleted::Gone(going),
        }
    }

    /// Whether nothing but finalizers can hold an object.
    pub(super) fn may_go(&self, kind: &Kind, object: &Value) -> bool {
        if is(kind, "", "namespaces") {
            let name = object::name(object);
            return !self.store.all().any(|(_, key, _)| key.namespace == name);
        }
        true
    }

    /// Removes an object, and what goes with it.
    pub(super) fn gone(&mut self, kind: &Kind, key: &Name, object: Value) -> Option<Arc<Value>> {
        let last = self.store.remove(kind, key, object)?;
        if is(kind, EXTENSIONS, DEFINITIONS) {
            self.registry.retire(&defined(&last));
        }
        for (kind, key) in self.dependents(object::uid(&last)) {
            self.collect_if_orphaned(&kind, &key);
        }
        self.release();
        Some(last)
    }

    /// Deletes what an ending object contains or, in the foreground, owns.
    fn empty(&mut self, kind: &Kind, object: &Value) {
        let inside: Vec<_> = if is(kind, "", "namespaces") {
            let name = object::name(object);
            let all = self.store.all().filter(|(_, key, _)| key.namespace == name);
            all.map(|(kind, key, _)| (kind.clone(), key.clone()))
                .collect()
        } else if is(kind, EXTENSIONS, DEFINITIONS) {
            let kind = defined(object);
            let all = self.store.list(&kind, "");
            all.map(|(key, _)| (kind.clone(), key.clone())).collect()
        } else if has(object, FOREGROUND) {
            self.dependents(object::uid(object))
        } else {
            Vec::new()
        };
        for (kind, key) in inside {
            if let Some(live) = self.store.get(&kind, &key).cloned()
                && !object::terminating(&live)
            {
                self.terminate(&kind, &key, &live, None);
            }
        }
        if has(object, ORPHAN) {
            for (kind, key) in self.dependents(object::uid(object)) {
                self.disown(&kind, &key, |uid| uid == object::uid(object));
            }
        }
    }

    /// Lets ending objects go that wait for others no more.
    fn release(&mut self) {
        loop {
            let ready = self.store.all().find_map(|(kind, key, object)| {
                let freed = self.freed(kind, object)?;
                Some((kind.clone(), key.clone(), freed))
            });
            let Some((kind, key, object)) = ready else {
                return;
            };
            if object::finalizers(&object).is_empty() {
                self.gone(&kind, &key, object);
            } else {
                self.store.put(&kind, &key, object);
            }
        }
    }

    /// An ending object without what the server itself held it by, if that is over.
    fn freed(&self, kind: &Kind, object: &Arc<Value>) -> Option<Value> {
        if !object::terminating(object) {
            return None;
        }
        let before = object::finalizers(object);
        let mut finalizers = before.clone();
        finalizers.retain(|finalizer| match finalizer.as_str() {
            FOREGROUND => self.blocked(object::uid(object)),
            ORPHAN => false,
            CLEANUP if is(kind, EXTENSIONS, DEFINITIONS) => {
                self.store.list(&defined(object), "").next().is_some()
            }
            _ => true,
        });
        let namespace = is(kind, "", "namespaces");
        let over = namespace && finalizers.is_empty() && self.may_go(kind, object);
        if finalizers == before && !over {
            return None;
        }
        let mut object = Value::clone(object);
        metadata(&mut object).insert("finalizers".into(), json!(finalizers));
        Some(object)
    }

    fn blocked(&self, uid: &str) -> bool {
        self.store.all().any(|(_, _, object)| {
            let owners = object::items(object, &["metadata", "ownerReferences"]);
            owners.iter().any(|owner| {
                text(owner, &["uid"]) == uid && owner["blockOwnerDeletion"] == Value::Bool(true)
            })
        })
    }

    /// The objects that name `uid` as an owner.
    fn dependents(&self, uid: &str) -> Vec<(Kind, Name)> {
        let all = self.store.all();
        all.filter(|(_, _, object)| object::owners(object).contains(&uid))
            .map(|(kind, key, _)| (kind.clone(), key.clone()))
            .collect()
    }

    /// What the garbage collector does with an object all or some of whose owners are gone.
    pub(super) fn collect_if_orphaned(&mut self, kind: &Kind, key: &Name) {
        let Some(live) = self.store.get(kind, key).cloned() else {
            return;
        };
        let gone: Vec<_> = object::owners(&live)
            .into_iter()
            .filter(|uid| {
                !self
                    .store
                    .all()
                    .any(|(_, _, other)| object::uid(other) == *uid)
            })
            .collect();
        if gone.is_empty() {
            return;
        }
        if gone.len() == object::owners(&live).len() {
            if !object::terminating(&live) {
                self.terminate(kind, key, &live, None);
            }
        } else {
            self.disown(kind, key, |uid| gone.contains(&uid));
        }
    }

    /// Removes owners from an object.
    fn disown(&mut self, kind: &Kind, key: &Name, gone: impl Fn(&str) -> bool) {
        let Some(live) = self.store.get(kind, key) else {
            return;
        };
        let mut object = Value::clone(live);
        let owners = metadata(&mut object).get_mut("ownerReferences");
        if let Some(Value::Array(owners)) = owners {
            owners.retain(|owner| !gone(text(owner, &["uid"])));
        }
        self.store.put(kind, key, object);
    }
}

fn is(kind: &Kind, group: &str, plural: &str) -> bool {
    kind.group == group && kind.plural == plural
}

fn has(object: &Value, finalizer: &str) -> bool {
    object::finalizers(object)
        .iter()
        .any(|own| own == finalizer)
}

/// The kind a definition defines.
fn defined(definition: &Value) -> Kind {
    Kind {
        group: text(definition, &["spec", "group"]).into(),
        plural: text(definition, &["spec", "names", "plural"]).into(),
    }
}

fn preconditions(target: &Target, live: &Value, options: &Value) -> Result<(), Failure> {
    let uid = text(options, &["preconditions", "uid"]);
    if !uid.is_empty() && uid != object::uid(live) {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The \
             object might have been deleted and then recreated",
            object::uid(live)
        );
        return Err(Failure::conflict(&target.resource, &target.name, &why));
    }
    let version = text(options, &["preconditions", "resourceVersion"]);
    if !version.is_empty() && version != object::version(live).to_string() {
        let why = format!(
            "the ResourceVersion in the precondition ({version}) does not match the \
             ResourceVersion in record ({}). The object might have been modified",
            object::version(live)
        );
        return Err(Failure::conflict(&target.resource, &target.name, &why));
    }
    Ok(())
}

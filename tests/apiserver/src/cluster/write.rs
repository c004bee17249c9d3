//! Creating and changing.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Cluster, Target, now, rules};
use crate::apply;
use crate::failure::{Cause, Failure};
use crate::lists::Place;
use crate::object::{self, metadata, set, text};
use crate::patch::Patch;
use crate::query::Query;

impl Cluster {
    /// Creates an object; its name may be the target's, its own, or generated.
    ///
    /// # Errors
    /// The object is malformed or refused, or its name is taken.
    pub fn create(
        &mut self,
        target: &Target,
        mut object: Value,
        query: &Query,
    ) -> Result<Arc<Value>, Failure> {
        let target = self.name(target, &mut object)?;
        self.namespace_accepts(&target)?;
        if self.store.get(&target.kind(), &target.key()).is_some() {
            return Err(Failure::already_exists(&target.resource, &target.name));
        }
        if object::version(&object) != 0 {
            let message = "resourceVersion should not be set on objects to be created";
            return Err(Failure::bad_request(message));
        }
        self.birth(&target, &mut object);
        rules::conform(&target.resource, &mut object, None, query)?;
        self.runtime_class(&target.resource, &mut object)?;
        self.admit(&target, &object, None, query)?;
        // An applied object brings its managers.
        if object::items(&object, &["metadata", "managedFields"]).is_empty() {
            let actor = Self::actor(&target, query, false);
            let place = Place::root(target.resource.schema.as_ref());
            apply::updated(&json!({}), &mut object, place, &actor);
        }
        let serving = self.serving(&target, &mut object)?;
        if query.dry_run {
            return Ok(Arc::new(object));
        }
        let object = self.store.put(&target.kind(), &target.key(), object);
        self.serve(serving);
        self.collect_if_orphaned(&target.kind(), &target.key());
        Ok(object)
    }

    /// Settles kind, namespace and name of a new object.
    fn name(&mut self, target: &Target, object: &mut Value) -> Result<Target, Failure> {
        let mut target = target.clone();
        self_described(&target, object)?;
        let generate = text(object, &["metadata", "generateName"]).to_owned();
        if target.name.is_empty() {
            object::name(object).clone_into(&mut target.name);
        }
        if target.name.is_empty() && !generate.is_empty() {
            let kept: String = generate.chars().take(58).collect();
            target.name = format!("{kept}{}", self.ending());
        }
        if target.name.is_empty() {
            let cause = Cause::new(
                "metadata.name",
                "FieldValueRequired",
                "Required value: name or generateName is required",
            );
            return Err(Failure::invalid(&target.resource, "", &[cause]));
        }
        let namespace = target.resource.namespaced.then(|| json!(target.namespace));
        set(metadata(object), "namespace", namespace);
        metadata(object).insert("name".into(), json!(target.name));
        Ok(target)
    }

    fn namespace_accepts(&self, target: &Target) -> Result<(), Failure> {
        if !target.resource.namespaced {
            return Ok(());
        }
        let Some(namespaces) = self.registry.find("", "v1", "namespaces") else {
            return Ok(());
        };
        let namespace = self.get(&Target {
            resource: Arc::clone(namespaces),
            namespace: String::new(),
            name: target.namespace.clone(),
            subresource: String::new(),
        })?;
        if object::terminating(&namespace) {
            let why = format!(
                "unable to create new content in namespace {} because it is being terminated",
                target.namespace
            );
            return Err(Failure::forbidden(&target.resource, &target.name, &why));
        }
        Ok(())
    }

    fn birth(&mut self, target: &Target, object: &mut Value) {
        let uid = self.uid();
        let metadata = metadata(object);
        for name in [
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "resourceVersion",
        ] {
            metadata.remove(name);
        }
        metadata.insert("uid".into(), json!(uid));
        metadata.insert("creationTimestamp".into(), json!(now()));
        let generation = target.resource.generation.then(|| json!(1));
        set(metadata, "generation", generation);
        rules::first(&target.resource, object);
    }

    /// Replaces an object, or one part of it.
    ///
    /// # Errors
    /// There is none, it has changed meanwhile, or the new one is refused.
    pub fn update(
        &mut self,
        target: &Target,
        mut object: Value,
        query: &Query,
    ) -> Result<Arc<Value>, Failure> {
        let live = self.get(target)?;
        self_described(target, &mut object)?;
        if object::name(&object) != target.name {
            let message = format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                object::name(&object),
                target.name
            );
            return Err(Failure::bad_request(message));
        }
        if target.resource.custom && object::version(&object) == 0 {
            let cause = Cause::new(
                "metadata.resourceVersion",
                "FieldValueInvalid",
                "Invalid value: 0: must be specified for an update",
            );
            return Err(Failure::invalid(&target.resource, &target.name, &[cause]));
        }
        unchanged_meanwhile(target, &live, &object)?;
        let mut object = self.settled(target, &live, object, query)?;
        let actor = Self::actor(target, query, false);
        let place = Place::root(target.resource.schema.as_ref());
        apply::updated(&live, &mut object, place, &actor);
        self.commit(target, &live, object, query)
    }

    /// Patches an object, or one part of it.
    ///
    /// # Errors
    /// As [`Self::update`], or the patch does not fit.
    pub fn patch(
        &mut self,
        target: &Target,
        kind: Patch,
        patch: Value,
        query: &Query,
    ) -> Result<Arc<Value>, Failure> {
        if kind == Patch::Strategic && target.resource.custom {
            return Err(Failure::unsupported_media(
                "application/strategic-merge-patch+json",
            ));
        }
        let live = self.get(target)?;
        let mut object = self.shown(target, &live);
        kind.apply(&mut object, patch)?;
        self.update(target, object, query)
    }

    /// Applies an object, creating it where there is none.
    ///
    /// # Errors
    /// As [`Self::update`], or another applier manages a field.
    pub fn apply(
        &mut self,
        target: &Target,
        mut applied: Value,
        query: &Query,
    ) -> Result<Arc<Value>, Failure> {
        applicable(target, &mut applied, query)?;
        let actor = Self::actor(target, query, true);
        let resource = Arc::clone(&target.resource);
        let place = Place::root(resource.schema.as_ref());
        let Some(live) = self.store.get(&target.kind(), &target.key()).cloned() else {
            if !target.subresource.is_empty() {
                return Err(Failure::not_found(&resource, &target.name));
            }
            let object = apply::apply(&json!({}), &applied, place, &actor, true)?;
            return self.create(target, object, query);
        };
        unchanged_meanwhile(target, &live, &applied)?;
        let base = self.shown(target, &live);
        let object = apply::apply(&base, &applied, place, &actor, query.force)?;
        let object = self.settled(target, &live, object, query)?;
        self.commit(target, &live, object, query)
    }

    /// What a change makes of an object: the parts that may not change as they were, the others
    /// checked.
    fn settled(
        &self,
        target: &Target,
        live: &Value,
        mut object: Value,
        query: &Query,
    ) -> Result<Value, Failure> {
        let resource = &target.resource;
        rules::keep(resource, &target.subresource, live, &mut object);
        if object::terminating(live) {
            let before = object::finalizers(live);
            let mut new = object::finalizers(&object);
            new.retain(|finalizer| !before.contains(finalizer));
            if !new.is_empty() {
                let message = format!(
                    "Forbidden: no new finalizers can be added if the object is being deleted, \
                     found new finalizers {new:?}"
                );
                let cause = Cause::new("metadata.finalizers", "FieldValueForbidden", message);
                return Err(Failure::invalid(resource, &target.name, &[cause]));
            }
        }
        rules::conform(resource, &mut object, Some(live), query)?;
        if resource.generation && rules::other_spec(live, &object) {
            let generation = live["metadata"]["generation"].as_u64().unwrap_or_default();
            metadata(&mut object).insert("generation".into(), json!(generation + 1));
        }
        self.admit(target, &object, Some(live), query)?;
        Ok(object)
    }

    /// Writes a changed object, or removes it if only its last finalizer held it.
    fn commit(
        &mut self,
        target: &Target,
        live: &Value,
        mut object: Value,
        query: &Query,
    ) -> Result<Arc<Value>, Failure> {
        let serving = match rules::other_spec(live, &object) {
            true => self.serving(target, &mut object)?,
            false => None,
        };
        if object == *live || query.dry_run {
            return Ok(Arc::new(object));
        }
        let (kind, key) = (target.kind(), target.key());
        if object::terminating(&object) && object::finalizers(&object).is_empty() {
            let shown = Arc::new(object.clone());
            if self.may_go(&kind, &object) {
                self.gone(&kind, &key, object);
                return Ok(shown);
            }
        }
        let object = self.store.put(&kind, &key, object);
        self.serve(serving);
        self.collect_if_orphaned(&kind, &key);
        Ok(object)
    }

    /// An object in the version of the target.
    pub(crate) fn shown(&self, target: &Target, object: &Value) -> Value {
        let mut object = object.clone();
        let version = target.resource.api_version();
        object::map(&mut object).insert("apiVersion".into(), json!(version));
        object
    }
}

/// Checks that an object is of the kind its path says, and fills it in where it says nothing.
fn self_described(target: &Target, object: &mut Value) -> Result<(), Failure> {
    let resource = &target.resource;
    let expected = [
        ("apiVersion", resource.api_version()),
        ("kind", resource.kind.clone()),
    ];
    if !object.is_object() {
        return Err(Failure::bad_request("the body is not an object"));
    }
    for (field, expected) in expected {
        let found = text(object, &[field]).to_owned();
        if !found.is_empty() && found != expected {
            return Err(Failure::bad_request(format!(
                "the {field} in the data ({found}) does not match the expected {field} ({expected})"
            )));
        }
        object::map(object).insert(field.into(), json!(expected));
    }
    let namespace = object::namespace(object);
    if !namespace.is_empty() && namespace != target.namespace {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Checks what may be applied, and leaves out what is not the target's.
fn applicable(target: &Target, applied: &mut Value, query: &Query) -> Result<(), Failure> {
    if query.manager.is_empty() {
        return Err(Failure::unprocessable(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required \
             for apply patch",
        ));
    }
    self_described(target, applied)?;
    if !object::items(applied, &["metadata", "managedFields"]).is_empty() {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    let name = object::name(applied);
    if !name.is_empty() && name != target.name {
        return Err(Failure::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    let parts = object::map(applied);
    if target.subresource == "status" {
        parts.retain(|part, _| matches!(part.as_str(), "status" | "apiVersion" | "kind"));
    } else if target.resource.status {
        parts.remove("status");
    }
    Ok(())
}

fn unchanged_meanwhile(target: &Target, live: &Value, new: &Value) -> Result<(), Failure> {
    let version = object::version(new);
    if version != 0 && version != object::version(live) {
        return Err(Failure::stale(&target.resource, &target.name));
    }
    let uid = object::uid(new);
    if !uid.is_empty() && uid != object::uid(live) {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            object::uid(live)
        );
        return Err(Failure::conflict(&target.resource, &target.name, &why));
    }
    Ok(())
}

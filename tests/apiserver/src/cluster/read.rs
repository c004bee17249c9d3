//! Getting and listing.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::{Cluster, Target};
use crate::failure::Failure;
use crate::query::Query;
use crate::selector::{FieldSelector, LabelSelector, SelectorError};
use crate::store::Name;

/// A part of a list.
#[derive(Debug)]
pub struct Page {
    /// The objects.
    pub items: Vec<Arc<Value>>,
    /// The version of the list.
    pub version: u64,
    /// What continues it; empty at its end.
    pub token: String,
    /// How many follow.
    pub remaining: usize,
}

/// Both kinds of selectors.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selectors {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selectors {
    pub(crate) fn of(target: &Target, query: &Query) -> Result<Self, Failure> {
        let bad = |error: SelectorError| Failure::bad_request(error.to_string());
        Ok(Self {
            labels: LabelSelector::parse(&query.labels).map_err(bad)?,
            fields: FieldSelector::parse(&query.fields, &target.resource.plural).map_err(bad)?,
        })
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.labels.matches(object) && self.fields.matches(object)
    }
}

impl Cluster {
    /// One object.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, target: &Target) -> Result<Arc<Value>, Failure> {
        self.store
            .get(&target.kind(), &target.key())
            .cloned()
            .ok_or_else(|| Failure::not_found(&target.resource, &target.name))
    }

    /// The objects of a kind.
    ///
    /// # Errors
    /// A selector is malformed, or the version is no longer known.
    pub fn list(&self, target: &Target, query: &Query) -> Result<Page, Failure> {
        let selectors = Selectors::of(target, query)?;
        let (version, after) = self.start(query)?;
        let objects = self.objects_at(target, version)?;
        let mut items: Vec<_> = objects
            .into_iter()
            .filter(|(name, object)| Some(name) > after.as_ref() && selectors.matches(object))
            .collect();
        let mut page = Page {
            items: Vec::new(),
            version,
            token: String::new(),
            remaining: 0,
        };
        if query.limit > 0 && items.len() > query.limit {
            page.remaining = items.len() - query.limit;
            items.truncate(query.limit);
            if let Some((Name { namespace, name }, _)) = items.last() {
                page.token = format!("{version}.{namespace}.{name}");
            }
        }
        page.items = items.into_iter().map(|(_, object)| object).collect();
        Ok(page)
    }

    /// The version listed, and the name after which the page begins.
    fn start(&self, query: &Query) -> Result<(u64, Option<Name>), Failure> {
        let bad = || Failure::bad_request("continue key is not valid");
        if !query.token.is_empty() {
            let mut parts = query.token.splitn(3, '.');
            let mut part = || parts.next().ok_or_else(bad);
            let version = part()?.parse().map_err(|_| bad())?;
            let (namespace, name) = (part()?.to_owned(), part()?.to_owned());
            return Ok((version, Some(Name { namespace, name })));
        }
        if query.version_match == "Exact" {
            let version = query.version.parse().map_err(|_| {
                Failure::bad_request("resourceVersion must be a number to match exactly")
            })?;
            return Ok((version, None));
        }
        Ok((self.store.version(), None))
    }

    /// The objects as they were: what has happened since is undone.
    fn objects_at(
        &self,
        target: &Target,
        version: u64,
    ) -> Result<BTreeMap<Name, Arc<Value>>, Failure> {
        let kind = target.kind();
        let mut objects: BTreeMap<_, _> = self
            .store
            .list(&kind, &target.namespace)
            .map(|(name, object)| (name.clone(), Arc::clone(object)))
            .collect();
        let changes = self
            .store
            .since(version)
            .map_err(|forgotten| Failure::expired(forgotten.asked, forgotten.oldest))?;
        let mut changes: Vec<_> = changes
            .filter(|change| change.kind == kind)
            .filter(|change| {
                target.namespace.is_empty() || change.name.namespace == target.namespace
            })
            .collect();
        while let Some(change) = changes.pop() {
            match &change.before {
                Some(before) => objects.insert(change.name.clone(), Arc::clone(before)),
                None => objects.remove(&change.name),
            };
        }
        Ok(objects)
    }
}

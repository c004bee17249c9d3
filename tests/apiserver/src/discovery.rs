//! What kinds there are.
//! <https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api>

use serde_json::{Map, Value, json};

use crate::resource::{Registry, Resource};

/// The release whose behaviour is the model.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "32", "gitVersion": "v1.32.0+bulkhead-test", "platform": "linux/amd64",
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc",
    })
}

/// `/api`
pub(crate) fn core() -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [],
    })
}

/// `/apis`
pub(crate) fn groups(registry: &Registry) -> Value {
    let mut names: Vec<&str> = Vec::new();
    for resource in registry.all() {
        if !resource.group.is_empty() && !names.contains(&resource.group.as_str()) {
            names.push(&resource.group);
        }
    }
    let groups: Vec<_> = names
        .into_iter()
        .filter_map(|name| group(registry, name))
        .collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/GROUP`
pub(crate) fn group(registry: &Registry, name: &str) -> Option<Value> {
    let mut versions: Vec<&str> = Vec::new();
    for resource in registry.all().filter(|resource| resource.group == name) {
        if !versions.contains(&resource.version.as_str()) {
            versions.push(&resource.version);
        }
    }
    let versions: Vec<_> = versions
        .into_iter()
        .map(|version| json!({ "groupVersion": format!("{name}/{version}"), "version": version }))
        .collect();
    let preferred = versions.first()?.clone();
    Some(json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions,
        "preferredVersion": preferred,
    }))
}

/// `/api/v1` and `/apis/GROUP/VERSION`
pub(crate) fn kinds(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let found: Vec<_> = registry
        .all()
        .filter(|resource| resource.group == group && resource.version == version)
        .collect();
    let api_version = found.first()?.api_version();
    let resources: Vec<_> = found
        .into_iter()
        .flat_map(|resource| entries(resource))
        .collect();
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version,
        "resources": resources,
    }))
}

fn entries(resource: &Resource) -> Vec<Value> {
    let mut entry = json!({
        "name": resource.plural, "singularName": resource.singular, "kind": resource.kind,
        "namespaced": resource.namespaced,
        "verbs": [
            "create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"
        ],
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    let mut all = vec![entry];
    if resource.status {
        all.push(json!({
            "name": format!("{}/status", resource.plural), "singularName": "",
            "kind": resource.kind, "namespaced": resource.namespaced,
            "verbs": ["get", "patch", "update"],
        }));
    }
    if resource.group.is_empty() && resource.plural == "pods" {
        all.push(json!({
            "name": "pods/eviction", "singularName": "", "group": "policy", "version": "v1",
            "kind": "Eviction", "namespaced": true, "verbs": ["create"],
        }));
    }
    all
}

/// `/openapi/v2`: every kind, without its fields.
pub(crate) fn openapi2(registry: &Registry) -> Value {
    let definitions: Map<String, Value> = registry
        .all()
        .map(|resource| {
            let Resource {
                group,
                version,
                kind,
                ..
            } = &**resource;
            let name = match group.as_str() {
                "" => format!("core.{version}.{kind}"),
                group => format!("{group}.{version}.{kind}"),
            };
            let definition = json!({
                "type": "object",
                "x-kubernetes-group-version-kind": [
                    { "group": group, "version": version, "kind": kind }
                ],
            });
            (name, definition)
        })
        .collect();
    json!({
        "swagger": "2.0", "info": { "title": "Kubernetes", "version": "v1.32.0" },
        "paths": {}, "definitions": definitions,
    })
}

/// `/openapi/v3`: a document for each version.
pub(crate) fn openapi3(registry: &Registry) -> Value {
    let paths: Map<String, Value> = registry
        .all()
        .map(|resource| {
            let root = root(&resource.group, &resource.version);
            let link = json!({ "serverRelativeURL": format!("/openapi/v3/{root}") });
            (root, link)
        })
        .collect();
    json!({ "paths": paths })
}

fn root(group: &str, version: &str) -> String {
    match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    }
}

/// `/openapi/v3/apis/GROUP/VERSION`: which parameters there are, so that `kubectl` leaves the
/// validation of fields to the server.
pub(crate) fn openapi3_of(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let found = registry
        .all()
        .filter(|resource| resource.group == group && resource.version == version);
    let parameter =
        |name: &str| json!({ "name": name, "in": "query", "schema": { "type": "string" } });
    let paths: Map<String, Value> = found
        .map(|resource| {
            let namespace = if resource.namespaced {
                "namespaces/{namespace}/"
            } else {
                ""
            };
            let path = format!(
                "/{}/{namespace}{}/{{name}}",
                root(group, version),
                resource.plural
            );
            let operation = json!({ "patch": {
                "parameters": [
                    parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation"),
                    parameter("force"),
                ],
                "responses": {},
                "x-kubernetes-action": "patch",
                "x-kubernetes-group-version-kind": {
                    "group": group, "version": version, "kind": resource.kind,
                },
            }});
            (path, operation)
        })
        .collect();
    (!paths.is_empty()).then(|| {
        json!({
            "openapi": "3.0.0", "info": { "title": "Kubernetes", "version": "v1.32.0" },
            "paths": paths,
        })
    })
}

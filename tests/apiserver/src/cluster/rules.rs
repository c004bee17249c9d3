//! What the server adds to objects and keeps from changing.

use serde_json::{Map, Value, json};

use super::{Cluster, names};
use crate::failure::{Cause, Failure};
use crate::object::{self, at, metadata, set, text};
use crate::query::Query;
use crate::resource::{ADMISSION, POLICIES, RBAC, Resource};
use crate::selector::LabelSelector;

/// Metadata only the server writes.
const SERVERS: [&str; 7] = [
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
];

/// The parts that are not the specification.
const APART: [&str; 4] = ["apiVersion", "kind", "metadata", "status"];

/// Fills in what a new object of a built-in kind gets.
pub(super) fn first(resource: &Resource, object: &mut Value) {
    let keeps = matches!(resource.plural.as_str(), "nodes" | "namespaces");
    if resource.status && (resource.custom || !keeps) {
        object::map(object).remove("status");
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => {
            let name = object::name(object).to_owned();
            object["status"] = json!({ "phase": "Active" });
            object::section(object, "spec").insert("finalizers".into(), json!(["kubernetes"]));
            object::map(metadata(object).entry("labels").or_insert(Value::Null))
                .insert("kubernetes.io/metadata.name".into(), json!(name));
        }
        ("", "pods") => object["status"] = json!({ "phase": "Pending" }),
        _ => {}
    }
}

/// Keeps what an update may not change.
pub(super) fn keep(resource: &Resource, subresource: &str, live: &Value, new: &mut Value) {
    let of_live = |name: &str| live.get(name).cloned();
    if subresource == "status" {
        let parts = live.as_object().into_iter().chain(new.as_object());
        let parts: Vec<_> = parts.flat_map(Map::keys).cloned().collect();
        for part in parts
            .iter()
            .filter(|part| *part != "status" && *part != "metadata")
        {
            set(object::map(new), part, of_live(part));
        }
        if resource.custom {
            let managed = at(new, &["metadata", "managedFields"]).cloned();
            set(object::map(new), "metadata", of_live("metadata"));
            set(metadata(new), "managedFields", managed);
        }
    } else if resource.status {
        set(object::map(new), "status", of_live("status"));
    }
    for name in SERVERS {
        let value = at(live, &["metadata", name]).cloned();
        set(metadata(new), name, value);
    }
    for name in ["apiVersion", "kind"] {
        set(object::map(new), name, of_live(name));
    }
    let version = at(live, &["metadata", "resourceVersion"]).cloned();
    set(metadata(new), "resourceVersion", version);
}

/// Whether the specification differs.
pub(super) fn other_spec(old: &Value, new: &Value) -> bool {
    let spec = |object: &Value| -> Map<String, Value> {
        let parts = object.as_object().into_iter().flatten();
        parts
            .filter(|(name, _)| !APART.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    spec(old) != spec(new)
}

/// Makes a custom object what its schema says, or tells why it cannot be.
pub(super) fn conform(
    resource: &Resource,
    object: &mut Value,
    old: Option<&Value>,
    query: &Query,
) -> Result<(), Failure> {
    let name = object::name(object).to_owned();
    let mut causes = names::labels(object);
    if old.is_none() {
        causes.extend(names::name(resource, &name));
    }
    if let Some(schema) = &resource.schema {
        let unknown = schema.prune(object);
        if query.strict && !unknown.is_empty() {
            let fields: Vec<_> = unknown
                .iter()
                .map(|field| format!("unknown field \"{field}\""))
                .collect();
            let (kind, version) = (&resource.kind, &resource.version);
            return Err(Failure::bad_request(format!(
                "{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding \
                 error: {}",
                fields.join(", ")
            )));
        }
        schema.fill(object);
        causes.extend(schema.validate(object, old));
    }
    causes.extend(built_in(resource, object, old));
    if causes.is_empty() {
        Ok(())
    } else {
        Err(Failure::invalid(resource, &name, &causes))
    }
}

/// What built-in kinds do not allow, as far as tests have needed it.
fn built_in(resource: &Resource, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut fixed = |field: &str, message: &str| {
        if let Some(old) = old
            && old.get(field) != object.get(field)
        {
            let shown = object.get(field).unwrap_or(&Value::Null);
            causes.push(Cause::invalid(field, shown, message));
        }
    };
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("node.k8s.io", "runtimeclasses") => {
            fixed("handler", "field is immutable");
            if text(object, &["handler"]).is_empty() {
                causes.push(Cause::new(
                    "handler",
                    "FieldValueRequired",
                    "Required value",
                ));
            }
        }
        ("apps", "daemonsets" | "deployments") => {
            causes.extend(workload(object, old));
        }
        (ADMISSION, POLICIES) => causes.extend(crate::admission::wrong(object)),
        (RBAC, "rolebindings" | "clusterrolebindings") => {
            fixed("roleRef", "cannot change roleRef");
        }
        ("", "configmaps" | "secrets")
            if old.is_some_and(|old| old["immutable"] == Value::Bool(true)) =>
        {
            for field in ["immutable", "data", "binaryData"] {
                fixed(field, "field is immutable when `immutable` is set");
            }
        }
        _ => {}
    }
    causes
}

/// What a workload's selector must be.
fn workload(object: &Value, old: Option<&Value>) -> Option<Cause> {
    let selector = at(object, &["spec", "selector"]);
    let Some(selector) = selector.filter(|selector| !selector.is_null()) else {
        return Some(Cause::new(
            "spec.selector",
            "FieldValueRequired",
            "Required value",
        ));
    };
    if old.is_some_and(|old| at(old, &["spec", "selector"]) != Some(selector)) {
        return Some(Cause::invalid(
            "spec.selector",
            selector,
            "field is immutable",
        ));
    }
    let template = at(object, &["spec", "template"]).unwrap_or(&Value::Null);
    let selects = LabelSelector::from_object(selector).is_ok_and(|found| found.matches(template));
    let labels = at(template, &["metadata", "labels"]).unwrap_or(&Value::Null);
    let message = "`selector` does not match template `labels`";
    (!selects).then(|| Cause::invalid("spec.template.metadata.labels", labels, message))
}

impl Cluster {
    /// What the RuntimeClass admission plugin does with a new pod.
    /// <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#runtimeclass>
    pub(super) fn runtime_class(
        &self,
        resource: &Resource,
        pod: &mut Value,
    ) -> Result<(), Failure> {
        let class = text(pod, &["spec", "runtimeClassName"]).to_owned();
        if !(resource.group.is_empty() && resource.plural == "pods") || class.is_empty() {
            return Ok(());
        }
        let refused = |why: &str| Failure::forbidden(resource, object::name(pod), why);
        let found = self.registry.find("node.k8s.io", "v1", "runtimeclasses");
        let key = crate::store::Name {
            namespace: String::new(),
            name: class.clone(),
        };
        let class = found
            .and_then(|classes| self.store.get(&classes.store_kind(), &key))
            .ok_or_else(|| refused(&format!("pod rejected: RuntimeClass \"{class}\" not found")))?;
        let overhead = at(class, &["overhead", "podFixed"]);
        let asked = at(pod, &["spec", "overhead"]);
        if asked.is_some() && asked != overhead {
            return Err(refused(
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
            ));
        }
        let mut selector = at(pod, &["spec", "nodeSelector"])
            .cloned()
            .unwrap_or_default();
        let more = at(class, &["scheduling", "nodeSelector"]).and_then(Value::as_object);
        for (key, value) in more.into_iter().flatten() {
            let before = object::map(&mut selector).insert(key.clone(), value.clone());
            if before.is_some_and(|before| before != *value) {
                return Err(refused("conflict: runtimeClass.scheduling.nodeSelector"));
            }
        }
        let mut tolerations = object::items(pod, &["spec", "tolerations"]).to_vec();
        for toleration in object::items(class, &["scheduling", "tolerations"]) {
            if !tolerations.contains(toleration) {
                tolerations.push(toleration.clone());
            }
        }
        let overhead = overhead.cloned();
        let spec = object::section(pod, "spec");
        set(spec, "overhead", overhead);
        if more.is_some() {
            set(spec, "nodeSelector", Some(selector));
        }
        if !tolerations.is_empty() {
            set(spec, "tolerations", Some(Value::Array(tolerations)));
        }
        Ok(())
    }
}

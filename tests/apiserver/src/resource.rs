//! The kinds the server knows: those built in, and those of custom resource definitions.

mod definition;

use std::sync::Arc;

use serde_json::Value;

use crate::schema::Schema;
use crate::store::Kind;

pub use definition::from_definition;

/// One version of one kind.
#[derive(Debug)]
pub struct Resource {
    /// The API group; empty for the core one.
    pub group: String,
    /// The version.
    pub version: String,
    /// As in paths.
    pub plural: String,
    /// As `kubectl get` also takes it.
    pub singular: String,
    /// As objects name it.
    pub kind: String,
    /// As lists name it.
    pub list_kind: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// What `kubectl get` also takes.
    pub short_names: Vec<String>,
    /// Groups of kinds, as `all`.
    pub categories: Vec<String>,
    /// Whether `status` is written apart.
    pub status: bool,
    /// Whether a definition makes it.
    pub custom: bool,
    /// Whether objects count changes of their specification.
    pub generation: bool,
    /// Columns of a table.
    pub columns: Vec<Column>,
    /// The schema of a custom one.
    pub schema: Option<Schema>,
}

/// A column of a table.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its head.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: String,
    /// Refines the type.
    pub format: String,
    /// For `kubectl explain`.
    pub description: String,
    /// 0 is shown always, above only when wide.
    pub priority: i64,
    /// Where the value is.
    pub path: String,
}

impl Resource {
    /// What all versions share.
    #[must_use]
    pub fn store_kind(&self) -> Kind {
        Kind {
            group: self.group.clone(),
            plural: self.plural.clone(),
        }
    }

    /// Plural and group, as messages name it.
    #[must_use]
    pub fn qualified(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// Group and version, as objects name them.
    #[must_use]
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }
}

/// Group, version, then for each kind: plural, kind, short names; flags: `n`amespaced, `s`tatus
/// apart, `g`eneration.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

/// <https://kubernetes.io/docs/reference/kubernetes-api/>
const BUILT_IN: [Row; 23] = [
    ("", "v1", "nodes", "Node", "no", "s"),
    ("", "v1", "namespaces", "Namespace", "ns", "s"),
    ("", "v1", "pods", "Pod", "po", "ns"),
    ("", "v1", "events", "Event", "ev", "n"),
    ("", "v1", "configmaps", "ConfigMap", "cm", "n"),
    ("", "v1", "secrets", "Secret", "", "n"),
    ("", "v1", "serviceaccounts", "ServiceAccount", "sa", "n"),
    ("", "v1", "services", "Service", "svc", "ns"),
    ("apps", "v1", "daemonsets", "DaemonSet", "ds", "nsg"),
    ("apps", "v1", "deployments", "Deployment", "deploy", "nsg"),
    (
        "node.k8s.io",
        "v1",
        "runtimeclasses",
        "RuntimeClass",
        "",
        "",
    ),
    ("coordination.k8s.io", "v1", "leases", "Lease", "", "n"),
    (RBAC, "v1", "roles", "Role", "", "n"),
    (RBAC, "v1", "clusterroles", "ClusterRole", "", ""),
    (RBAC, "v1", "rolebindings", "RoleBinding", "", "n"),
    (
        RBAC,
        "v1",
        "clusterrolebindings",
        "ClusterRoleBinding",
        "",
        "",
    ),
    ("events.k8s.io", "v1", "events", "Event", "ev", "n"),
    (
        ADMISSION,
        "v1",
        POLICIES,
        "ValidatingAdmissionPolicy",
        "",
        "sg",
    ),
    (
        ADMISSION,
        "v1",
        POLICY_BINDINGS,
        "ValidatingAdmissionPolicyBinding",
        "",
        "g",
    ),
    (
        "networking.k8s.io",
        "v1",
        "networkpolicies",
        "NetworkPolicy",
        "netpol",
        "ng",
    ),
    (
        "policy",
        "v1",
        "poddisruptionbudgets",
        "PodDisruptionBudget",
        "pdb",
        "nsg",
    ),
    (
        EXTENSIONS,
        "v1",
        DEFINITIONS,
        "CustomResourceDefinition",
        "crd,crds",
        "sg",
    ),
    (
        "scheduling.k8s.io",
        "v1",
        "priorityclasses",
        "PriorityClass",
        "pc",
        "g",
    ),
];

pub(crate) const RBAC: &str = "rbac.authorization.k8s.io";
pub(crate) const ADMISSION: &str = "admissionregistration.k8s.io";
pub(crate) const POLICIES: &str = "validatingadmissionpolicies";
pub(crate) const POLICY_BINDINGS: &str = "validatingadmissionpolicybindings";
pub(crate) const EXTENSIONS: &str = "apiextensions.k8s.io";
pub(crate) const DEFINITIONS: &str = "customresourcedefinitions";

fn built_in((group, version, plural, kind, short, flags): Row) -> Resource {
    Resource {
        group: group.into(),
        version: version.into(),
        plural: plural.into(),
        singular: kind.to_lowercase(),
        kind: kind.into(),
        list_kind: format!("{kind}List"),
        namespaced: flags.contains('n'),
        short_names: short
            .split(',')
            .filter(|name| !name.is_empty())
            .map(Into::into)
            .collect(),
        categories: match plural {
            "pods" | "services" | "daemonsets" | "deployments" => vec!["all".into()],
            _ => Vec::new(),
        },
        status: flags.contains('s'),
        custom: false,
        generation: flags.contains('g'),
        columns: Vec::new(),
        schema: None,
    }
}

/// All kinds served.
#[derive(Debug)]
pub struct Registry(Vec<Arc<Resource>>);

impl Default for Registry {
    fn default() -> Self {
        Self(BUILT_IN.into_iter().map(built_in).map(Arc::new).collect())
    }
}

impl Registry {
    /// The kind at a path.
    #[must_use]
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.0.iter().find(|resource| {
            resource.group == group && resource.version == version && resource.plural == plural
        })
    }

    /// The kind an object says it is of.
    #[must_use]
    pub fn of_object(&self, object: &Value) -> Option<&Arc<Resource>> {
        let version = crate::object::text(object, &["apiVersion"]);
        let kind = crate::object::text(object, &["kind"]);
        self.0
            .iter()
            .find(|resource| resource.kind == kind && resource.api_version() == version)
    }

    /// Some version of a kind.
    #[must_use]
    pub fn of_kind(&self, kind: &Kind) -> Option<&Arc<Resource>> {
        self.0
            .iter()
            .find(|resource| resource.group == kind.group && resource.plural == kind.plural)
    }

    /// All of them, in a steady order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.0.iter()
    }

    /// Serves the versions of a definition in place of those it served before.
    pub fn serve(&mut self, kind: &Kind, versions: Vec<Resource>) {
        self.retire(kind);
        self.0.extend(versions.into_iter().map(Arc::new));
    }

    /// Serves a custom kind no more.
    pub fn retire(&mut self, kind: &Kind) {
        self.0.retain(|resource| {
            !resource.custom || resource.group != kind.group || resource.plural != kind.plural
        });
    }
}

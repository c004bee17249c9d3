//! The operator's API: what a cluster's administrator writes, and what the
//! operator and the node agents tell each other.
//!
//! ```text
//!   KataConfig (administrator)  ──▶  operator  ──▶  KataNode.spec (one per node)
//!        status  ◀── counts, plan ──────┘                 │
//!                                       KataNode.status ◀─┴─ node agent
//! ```
//!
//! Group and version are those of OpenShift sandboxed containers, with the
//! same fields, names, defaults and columns, so that its manifests apply as
//! they are; fields of our own stand beside them and are optional.

#![expect(unreachable_pub, reason = "what derives of KubeSchema generate")]
#![expect(clippy::duplicated_attributes, reason = "columns look alike to it")]

mod config;
mod node;
mod quantity;
mod runtime;
mod status;
#[cfg(test)]
mod tests;

pub use config::{
    KataConfig, KataConfigSpec, NodeInstall, Rollout, Uninstall, Verification, Window,
};
pub use node::{Action, HandlerSpec, KataNode, KataNodeSpec, KataNodeStatus, NodePhase, Preflight};
pub use quantity::{millicores, parse_duration, parse_memory};
pub use runtime::{Backend, Machine, Overhead, Runtime};
pub use status::{KataConfigStatus, KataNodes, Plan, PlanAction, PlanStep};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// API group of both kinds.
pub const GROUP: &str = "kataconfiguration.openshift.io";
/// Finalizer of a `KataConfig` whose nodes are not clean yet.
pub const FINALIZER: &str = "kataconfiguration.openshift.io/finalizer";
/// Label of a node that belongs to a `KataConfig`, as the OSC operator sets it.
pub const MEMBER_LABEL: &str = "node-role.kubernetes.io/kata-oc";
/// Label of the nodes a cluster's workloads run on.
pub const WORKER_LABEL: &str = "node-role.kubernetes.io/worker";
/// Labels of the nodes that run the cluster itself.
pub const CONTROL_PLANE_LABELS: [&str; 2] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
];
/// What Node Feature Discovery writes on a node that can run virtual machines.
pub const FEATURE_LABEL: &str = "feature.node.kubernetes.io/runtime.kata";
/// Taint with which new nodes may register; it goes when the node is ready.
pub const STARTUP_TAINT: &str = "kataconfiguration.openshift.io/not-ready";
/// Annotation of a `KataNode` whose node accepts no new pods, because it is
/// being left: since when. On the node itself where it has no `KataNode`. Not in the spec, because an agent need not act.
pub const WITHDRAWN_ANNOTATION: &str = "kataconfiguration.openshift.io/withdrawn-since";
/// Annotation of a node the operator closed to new pods, and opens again.
pub const CORDONED_ANNOTATION: &str = "kataconfiguration.openshift.io/cordoned";
/// Label of the objects the operator made and may delete.
pub const MANAGED_LABEL: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_LABEL`], and the operator's field manager.
pub const OPERATOR: &str = "bulkhead-operator";
/// The handler of a `KataConfig` that names none.
pub const DEFAULT_HANDLER: &str = "kata";

/// Label of the nodes that serve a handler now; a RuntimeClass selects by it.
#[must_use]
pub fn runtime_label(handler: &str) -> String {
    format!("{}{handler}", RUNTIME_LABEL_PREFIX)
}

/// What every [`runtime_label`] begins with.
pub const RUNTIME_LABEL_PREFIX: &str = "kataconfiguration.openshift.io/runtime.";

/// The definitions to apply to a cluster, `KataConfig` first.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![KataConfig::crd(), KataNode::crd()]
}

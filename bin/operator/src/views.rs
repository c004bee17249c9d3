//! Objects of the API, reduced to what decisions need. Whatever is not needed
//! is dropped here, so that ten thousand pods cost little memory.

use bulkhead_kataconfig::{
    CORDONED_ANNOTATION, MANAGED_LABEL, OPERATOR, STARTUP_TAINT, WITHDRAWN_ANNOTATION,
};
use bulkhead_rollout::{ClassView, NodeView, PodView};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;

use crate::machine_config;

/// Handlers of a node that are looked at.
const HANDLERS_MAX: usize = 64;

/// Characters of a machine's identity (machine-id(5) has 32).
const MACHINE_ID_MAX: usize = 64;

/// A node. All labels stay: a selector may ask for any of them.
pub(crate) fn node(node: Node) -> NodeView {
    let annotations = node.metadata.annotations.unwrap_or_default();
    let withdrawn = annotations.get(WITHDRAWN_ANNOTATION);
    let status = node.status.unwrap_or_default();
    let ready = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready");
    let spec = node.spec.unwrap_or_default();
    let taints = spec.taints.unwrap_or_default();
    let handlers = status.runtime_handlers.map(|handlers| {
        let names = handlers.into_iter().filter_map(|handler| handler.name);
        names.take(HANDLERS_MAX).collect()
    });
    NodeView {
        uid: node.metadata.uid.unwrap_or_default(),
        labels: node.metadata.labels.unwrap_or_default(),
        ready: ready.is_some_and(|condition| condition.status == "True"),
        ready_changed: ready
            .and_then(|condition| condition.last_transition_time.as_ref())
            .or(node.metadata.creation_timestamp.as_ref())
            .map(|time| time.0),
        startup_taint: taints.iter().any(|taint| taint.key == STARTUP_TAINT),
        unschedulable: spec.unschedulable.unwrap_or(false),
        cordoned: annotations.contains_key(CORDONED_ANNOTATION),
        machine_id: status
            .node_info
            .map(|info| info.machine_id.chars().take(MACHINE_ID_MAX).collect())
            .unwrap_or_default(),
        handlers,
        withdrawn_since: withdrawn.and_then(|at| at.parse().ok()),
        machine: machine_config::machine(&annotations),
    }
}

/// A pod and its node, when it has a runtime class, runs somewhere, and has not
/// ended.
pub(crate) fn pod(pod: Pod) -> Option<(String, PodView)> {
    let spec = pod.spec?;
    let phase = pod.status.and_then(|status| status.phase);
    let ended = phase.is_some_and(|phase| phase == "Succeeded" || phase == "Failed");
    let view = PodView {
        namespace: pod.metadata.namespace?,
        name: pod.metadata.name?,
        class: spec.runtime_class_name?,
    };
    (!ended).then_some((spec.node_name?, view))
}

/// A RuntimeClass.
pub(crate) fn class(class: RuntimeClass) -> ClassView {
    let labels = class.metadata.labels.unwrap_or_default();
    let mut fixed = class.overhead.and_then(|o| o.pod_fixed).unwrap_or_default();
    let mut quantity = |name: &str| fixed.remove(name).map(|q| q.0).unwrap_or_default();
    ClassView {
        handler: class.handler,
        managed: labels.get(MANAGED_LABEL).is_some_and(|by| by == OPERATOR),
        cpu: quantity("cpu"),
        memory: quantity("memory"),
        node_selector: class
            .scheduling
            .and_then(|scheduling| scheduling.node_selector)
            .unwrap_or_default(),
    }
}

//! Writes the steps of a plan, and notes what the API server answers.

use std::collections::BTreeMap;

use bulkhead_kataconfig::{
    FINALIZER, GROUP, KataConfig, KataConfigStatus, KataNode, KataNodeSpec, MANAGED_LABEL,
    OPERATOR, STARTUP_TAINT, WITHDRAWN_ANNOTATION,
};
use bulkhead_rollout::{Change, ClassView, Notice};
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Error, Resource, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::machine_config::{MachineConfig, MachineConfigPool, config_body, pool_body};

/// Bytes of an Event's note (the API's limit).
const NOTE_MAX: usize = 1024;

/// Writes to a cluster.
pub(crate) struct Writer {
    configs: Api<KataConfig>,
    kata_nodes: Api<KataNode>,
    nodes: Api<Node>,
    classes: Api<RuntimeClass>,
    machine_configs: Api<MachineConfig>,
    pools: Api<MachineConfigPool>,
    recorder: Recorder,
}

/// The name of a change, for metrics and logs.
pub(crate) fn kind(change: &Change) -> &'static str {
    match change {
        Change::AddFinalizer { .. } | Change::RemoveFinalizer { .. } => "finalizer",
        Change::ApplyKataNode { .. } => "katanode",
        Change::DeleteKataNode { .. } => "katanode-delete",
        Change::PatchNode { .. } => "node",
        Change::ApplyClass { .. } => "runtimeclass",
        Change::DeleteClass { .. } => "runtimeclass-delete",
        Change::ApplyMachineConfig { .. } => "machineconfig",
        Change::DeleteMachineConfig { .. } => "machineconfig-delete",
        Change::ApplyPool { .. } => "machineconfigpool",
        Change::DeletePool { .. } => "machineconfigpool-delete",
        Change::SetStatus { .. } => "status",
    }
}

/// What a change is, for people.
pub(crate) fn shown(change: &Change) -> String {
    match change {
        Change::AddFinalizer { config } | Change::RemoveFinalizer { config } => {
            format!("the finalizer of the KataConfig {config}")
        }
        Change::ApplyKataNode { name, .. } => format!("the KataNode {name}"),
        Change::DeleteKataNode { name } => format!("the deletion of the KataNode {name}"),
        Change::PatchNode { name, .. } => format!("labels of the node {name}"),
        Change::ApplyClass { name, .. } => format!("the RuntimeClass {name}"),
        Change::DeleteClass { name } => format!("the deletion of the RuntimeClass {name}"),
        Change::ApplyMachineConfig { name, .. } => format!("the MachineConfig {name}"),
        Change::DeleteMachineConfig { name } => format!("the deletion of the MachineConfig {name}"),
        Change::ApplyPool { name, .. } => format!("the MachineConfigPool {name}"),
        Change::DeletePool { name } => format!("the deletion of the MachineConfigPool {name}"),
        Change::SetStatus { config, .. } => format!("the status of the KataConfig {config}"),
    }
}

/// Why a write failed: the API server's own words, if it answered.
pub(crate) fn why(error: &Error) -> String {
    match error {
        Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}

impl Writer {
    /// Writes as the operator called `identity`.
    pub(crate) fn new(client: &Client, identity: &str) -> Self {
        let reporter = Reporter {
            controller: OPERATOR.into(),
            instance: Some(identity.to_owned()),
        };
        Self {
            configs: Api::all(client.clone()),
            kata_nodes: Api::all(client.clone()),
            nodes: Api::all(client.clone()),
            classes: Api::all(client.clone()),
            machine_configs: Api::all(client.clone()),
            pools: Api::all(client.clone()),
            recorder: Recorder::new(client.clone(), reporter),
        }
    }

    /// Makes one change. What is deleted already is deleted.
    pub(crate) async fn apply(&self, cluster: &mut Cluster, change: Change) -> Result<(), Error> {
        match change {
            Change::AddFinalizer { config } => self.finalizer(cluster, &config, true).await,
            Change::RemoveFinalizer { config } => self.finalizer(cluster, &config, false).await,
            Change::ApplyKataNode {
                name,
                node_uid,
                spec,
                withdrawn_since,
            } => {
                let withdrawn = withdrawn_since.map(|at| at.to_string());
                let body = kata_node(cluster, &name, &node_uid, &spec, withdrawn);
                let written = self
                    .kata_nodes
                    .patch(&name, &applying(), &Patch::Apply(body))
                    .await?;
                cluster.wrote_kata_node(written);
                Ok(())
            }
            Change::DeleteKataNode { name } => {
                let known = cluster.kata_node(&name).map(|node| &node.metadata);
                let preconditions = known.map(|known| Preconditions {
                    uid: known.uid.clone(),
                    resource_version: known.resource_version.clone(),
                });
                let params = DeleteParams {
                    preconditions,
                    ..DeleteParams::default()
                };
                absent(self.kata_nodes.delete(&name, &params).await)?;
                cluster.deleted_kata_node(&name);
                Ok(())
            }
            Change::PatchNode {
                name,
                labels,
                annotations,
                lift_taint,
                unschedulable,
            } => {
                let mut body = self.node(&name, &labels, &annotations, lift_taint).await?;
                if let Some(closed) = unschedulable {
                    body["spec"]["unschedulable"] = json!(closed.then_some(true));
                }
                let written = self
                    .nodes
                    .patch(&name, &merging(), &Patch::Merge(body))
                    .await?;
                cluster.wrote_node(written);
                Ok(())
            }
            Change::ApplyClass { name, class } => {
                let body = class_body(&name, &class);
                let written = self
                    .classes
                    .patch(&name, &applying(), &Patch::Apply(body))
                    .await?;
                cluster.wrote_class(written);
                Ok(())
            }
            Change::DeleteClass { name } => {
                absent(self.classes.delete(&name, &DeleteParams::default()).await)?;
                cluster.deleted_class(&name);
                Ok(())
            }
            Change::ApplyMachineConfig { name, config } => {
                let patch = Patch::Apply(config_body(&name, &config));
                let api = &self.machine_configs;
                cluster.wrote_machine_config(api.patch(&name, &applying(), &patch).await?);
                Ok(())
            }
            Change::DeleteMachineConfig { name } => {
                let api = &self.machine_configs;
                absent(api.delete(&name, &DeleteParams::default()).await)?;
                cluster.deleted_machine_config(&name);
                Ok(())
            }
            Change::ApplyPool { name, pool } => {
                let patch = Patch::Apply(pool_body(&name, &pool));
                cluster.wrote_pool(self.pools.patch(&name, &applying(), &patch).await?);
                Ok(())
            }
            Change::DeletePool { name } => {
                absent(self.pools.delete(&name, &DeleteParams::default()).await)?;
                cluster.deleted_pool(&name);
                Ok(())
            }
            Change::SetStatus { config, status } => self.status(cluster, &config, &status).await,
        }
    }

    async fn finalizer(&self, cluster: &mut Cluster, name: &str, there: bool) -> Result<(), Error> {
        let Some(known) = cluster.config(name) else {
            return Ok(());
        };
        let others = known
            .finalizers()
            .iter()
            .filter(|own| *own != FINALIZER)
            .cloned();
        let own = there.then(|| FINALIZER.to_owned());
        let finalizers: Vec<_> = others.chain(own).collect();
        // The list is replaced whole: only as it was known.
        let body = json!({"metadata": {
            "resourceVersion": known.resource_version(),
            "uid": known.uid(),
            "finalizers": finalizers,
        }});
        let written = self
            .configs
            .patch(name, &merging(), &Patch::Merge(body))
            .await?;
        if !there && written.finalizers().is_empty() {
            cluster.deleted_config(name);
        } else {
            cluster.wrote_config(written);
        }
        Ok(())
    }

    async fn status(
        &self,
        cluster: &mut Cluster,
        name: &str,
        status: &KataConfigStatus,
    ) -> Result<(), Error> {
        // The identity keeps an apply from making anew what was deleted.
        let uid = cluster.config(name).and_then(ResourceExt::uid);
        let body = json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": "KataConfig",
            "metadata": {"name": name, "uid": uid},
            "status": status,
        });
        let patch = Patch::Apply(body);
        let written = self.configs.patch_status(name, &applying(), &patch).await?;
        cluster.wrote_config(written);
        Ok(())
    }

    /// A merge rather than an apply: a label has to go whoever set it.
    async fn node(
        &self,
        name: &str,
        labels: &BTreeMap<String, Option<String>>,
        annotations: &BTreeMap<String, Option<String>>,
        lift_taint: bool,
    ) -> Result<Value, Error> {
        if !lift_taint {
            return Ok(json!({"metadata": {"labels": labels, "annotations": annotations}}));
        }
        // Taints are a list that is replaced whole: only as it was just read.
        let node = self.nodes.get(name).await?;
        let version = node.resource_version();
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let kept = taints
            .into_iter()
            .filter(|taint| taint.key != STARTUP_TAINT);
        let kept: Vec<Taint> = kept.collect();
        Ok(json!({
            "metadata": {
                "labels": labels, "annotations": annotations, "resourceVersion": version,
            },
            "spec": {"taints": kept},
        }))
    }

    /// Tells people. Nothing depends on it.
    pub(crate) async fn tell(&self, cluster: &Cluster, notice: &Notice) {
        let Some(config) = cluster.config(&notice.config) else {
            return;
        };
        let event = Event {
            type_: match notice.warning {
                true => EventType::Warning,
                false => EventType::Normal,
            },
            reason: notice.reason.to_owned(),
            note: Some(within(&notice.message)),
            action: "Rollout".into(),
            secondary: None,
        };
        let reference = config.object_ref(&());
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            tracing::warn!(%error, reason = notice.reason, "an event could not be written");
        }
    }
}

/// As much of a note as fits.
fn within(text: &str) -> String {
    let mut end = text.len().min(NOTE_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn applying() -> PatchParams {
    PatchParams::apply(OPERATOR).force()
}

fn merging() -> PatchParams {
    PatchParams {
        field_manager: Some(OPERATOR.into()),
        ..PatchParams::default()
    }
}

/// What is not there need not be deleted.
fn absent<T>(deleted: Result<T, Error>) -> Result<(), Error> {
    match deleted {
        Err(Error::Api(status)) if status.code == 404 => Ok(()),
        deleted => deleted.map(|_| ()),
    }
}

fn kata_node(
    cluster: &Cluster,
    name: &str,
    node_uid: &str,
    spec: &KataNodeSpec,
    withdrawn: Option<String>,
) -> Value {
    let known = cluster.kata_node(name);
    let annotations = withdrawn.map(|at| json!({ WITHDRAWN_ANNOTATION: at }));
    let mut metadata = json!({
        "name": name,
        "labels": { MANAGED_LABEL: OPERATOR },
        "ownerReferences": [{
            "apiVersion": "v1", "kind": "Node", "name": name, "uid": node_uid,
        }],
    });
    if let Some(annotations) = annotations {
        metadata["annotations"] = annotations;
    }
    // As it was when it was decided about; a new one has no version.
    if let Some(known) = known {
        metadata["uid"] = json!(known.uid());
        metadata["resourceVersion"] = json!(known.resource_version());
    }
    json!({
        "apiVersion": format!("{GROUP}/v1alpha1"),
        "kind": "KataNode",
        "metadata": metadata,
        "spec": spec,
    })
}

fn class_body(name: &str, class: &ClassView) -> Value {
    json!({
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": name, "labels": { MANAGED_LABEL: OPERATOR }},
        "handler": class.handler,
        "overhead": {"podFixed": {"cpu": class.cpu, "memory": class.memory}},
        "scheduling": {"nodeSelector": class.node_selector},
    })
}

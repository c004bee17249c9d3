//! OpenShift's MachineConfigs and MachineConfigPools, reduced to what decisions
//! need, and as they are written.
//! <https://docs.redhat.com/en/documentation/openshift_container_platform/4.18/html/machine_configuration>

use std::collections::BTreeMap;

use bulkhead_kataconfig::{MANAGED_LABEL, OPERATOR};
use bulkhead_rollout::{MachineConfigView, MachineView, PoolSpec, PoolView};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// API group of both kinds.
const GROUP: &str = "machineconfiguration.openshift.io";
/// The label by which pools take MachineConfigs.
const ROLE_LABEL: &str = "machineconfiguration.openshift.io/role";
/// Extensions and sources of one object that are looked at.
const NAMES_MAX: usize = 256;
/// Bytes of the Machine Config Operator's words that are kept.
const WORDS_MAX: usize = 1024;

/// What is looked at of a MachineConfig. Its files, which make up most of it,
/// are passed over while it is read.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default)]
#[kube(
    group = "machineconfiguration.openshift.io",
    version = "v1",
    kind = "MachineConfig",
    plural = "machineconfigs",
    schema = "disabled"
)]
pub(crate) struct MachineConfigSpec {
    #[serde(default)]
    extensions: Option<Vec<String>>,
}

/// What is looked at of a MachineConfigPool.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default)]
#[kube(
    group = "machineconfiguration.openshift.io",
    version = "v1",
    kind = "MachineConfigPool",
    plural = "machineconfigpools",
    status = "PoolStatus",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct MachineConfigPoolSpec {
    machine_config_selector: Option<LabelSelector>,
    node_selector: Option<LabelSelector>,
    max_unavailable: Option<IntOrString>,
    paused: bool,
    configuration: Configuration,
}

/// The rendered config of a pool.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
#[serde(default)]
pub(crate) struct Configuration {
    source: Option<Vec<Source>>,
}

/// A MachineConfig it was made of.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
#[serde(default)]
pub(crate) struct Source {
    name: String,
}

/// How a pool is.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
#[serde(default)]
pub(crate) struct PoolStatus {
    conditions: Option<Vec<PoolCondition>>,
}

/// A condition of a pool.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
#[serde(default)]
pub(crate) struct PoolCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    message: String,
}

fn managed(object: &impl ResourceExt) -> bool {
    let by = object.labels().get(MANAGED_LABEL);
    by.is_some_and(|by| by == OPERATOR)
}

fn within(text: &str) -> String {
    let mut end = text.len().min(WORDS_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// A MachineConfig.
pub(crate) fn config(config: MachineConfig) -> MachineConfigView {
    let managed = managed(&config);
    let role = config.labels().get(ROLE_LABEL).cloned();
    let mut owners = config.metadata.owner_references.into_iter().flatten();
    let pool = owners.find(|owner| owner.kind == "MachineConfigPool");
    let extensions = config.spec.extensions.into_iter().flatten();
    MachineConfigView {
        managed,
        role: role.unwrap_or_default(),
        pool: pool.map(|owner| owner.name),
        extensions: extensions.take(NAMES_MAX).collect(),
    }
}

/// A MachineConfigPool.
pub(crate) fn pool(pool: MachineConfigPool) -> PoolView {
    let managed = managed(&pool);
    let sources = pool.spec.configuration.source.unwrap_or_default();
    let conditions = pool.status.unwrap_or_default().conditions;
    let mut conditions = conditions.unwrap_or_default().into_iter();
    let degraded = conditions.find(|own| own.kind == "RenderDegraded" && own.status == "True");
    PoolView {
        managed,
        spec: PoolSpec {
            node_selector: pool.spec.node_selector.unwrap_or_default(),
            config_selector: pool.spec.machine_config_selector.unwrap_or_default(),
            max_unavailable: pool.spec.max_unavailable,
        },
        paused: pool.spec.paused,
        sources: sources
            .into_iter()
            .map(|source| source.name)
            .take(NAMES_MAX)
            .collect(),
        degraded: degraded.map(|own| within(&own.message)),
    }
}

/// What the Machine Config Operator wrote on a node.
pub(crate) fn machine(annotations: &BTreeMap<String, String>) -> Option<MachineView> {
    let get = |key: &str| annotations.get(&format!("{GROUP}/{key}"));
    let text = |key: &str| get(key).map(|text| within(text)).unwrap_or_default();
    get("currentConfig").map(|_| MachineView {
        current: text("currentConfig"),
        desired: text("desiredConfig"),
        state: text("state"),
        reason: text("reason"),
    })
}

/// A MachineConfig that enables extensions and nothing else.
pub(crate) fn config_body(name: &str, config: &MachineConfigView) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "MachineConfig",
        "metadata": {
            "name": name,
            "labels": { MANAGED_LABEL: OPERATOR, ROLE_LABEL: config.role },
        },
        "spec": {
            "config": { "ignition": { "version": "3.2.0" } },
            "extensions": config.extensions,
        },
    })
}

/// A MachineConfigPool.
pub(crate) fn pool_body(name: &str, pool: &PoolSpec) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "MachineConfigPool",
        "metadata": {
            "name": name,
            "labels": {
                MANAGED_LABEL: OPERATOR,
                format!("pools.operator.{GROUP}/{name}"): "",
            },
        },
        "spec": {
            "machineConfigSelector": pool.config_selector,
            "nodeSelector": pool.node_selector,
            "maxUnavailable": pool.max_unavailable,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_mco_leaves_empty_is_read() {
        let rendered = json!({
            "apiVersion": "machineconfiguration.openshift.io/v1", "kind": "MachineConfig",
            "metadata": { "name": "rendered-worker-1", "ownerReferences": [{
                "apiVersion": "machineconfiguration.openshift.io/v1",
                "kind": "MachineConfigPool", "name": "worker", "uid": "1", "controller": true,
            }] },
            "spec": { "config": { "storage": { "files": [{ "path": "/etc/x" }] } },
                "extensions": null, "kernelArguments": null, "osImageURL": "" },
        });
        let view = config(serde_json::from_value(rendered).unwrap());
        assert_eq!(view.pool.as_deref(), Some("worker"));
        assert!(!view.managed && view.extensions.is_empty());
        let empty = json!({
            "apiVersion": "machineconfiguration.openshift.io/v1", "kind": "MachineConfigPool",
            "metadata": { "name": "worker" },
            "spec": { "configuration": {}, "paused": true },
            "status": { "conditions": [{ "type": "RenderDegraded", "status": "True",
                "message": "no such extension", "reason": "" }] },
        });
        let view = pool(serde_json::from_value(empty).unwrap());
        assert!(view.paused && view.sources.is_empty());
        assert_eq!(view.degraded.as_deref(), Some("no such extension"));
    }

    #[test]
    fn what_is_written_is_what_is_wanted() {
        let wanted = MachineConfigView {
            managed: true,
            role: "kata-oc".into(),
            pool: None,
            extensions: vec!["sandboxed-containers".into()],
        };
        let written = serde_json::from_value(config_body("a", &wanted)).unwrap();
        assert_eq!(config(written), wanted);
        let wanted = PoolSpec {
            max_unavailable: Some(IntOrString::String("10%".into())),
            ..PoolSpec::default()
        };
        let written = pool(serde_json::from_value(pool_body("kata-oc", &wanted)).unwrap());
        assert!(written.managed && written.spec == wanted);
    }
}

//! What the operator tells about a `KataConfig`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// State of a `KataConfig`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KataConfigStatus {
    /// RuntimeClasses that exist for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runtime_classes: Vec<String>,
    /// Nodes by state.
    #[serde(default)]
    pub kata_nodes: KataNodes,
    /// Ready, Progressing, Degraded, Blocked, UpgradeAvailable, and InProgress
    /// as the OSC operator has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"]
    ))]
    pub conditions: Vec<Condition>,
    /// Whether the Machine Config Operator has not taken up yet what it was
    /// told.
    #[serde(default)]
    pub waiting_for_mco_to_start: bool,
    /// Generation of the spec this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The version nodes have or are getting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What happens next.
    #[serde(default)]
    pub plan: Plan,
}

/// Nodes by state. The lists are sorted and hold at most 100 names; `counts`
/// tells how many there are.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KataNodes {
    /// Nodes that belong to the KataConfig.
    #[serde(default)]
    pub node_count: u32,
    /// Nodes that serve it.
    #[serde(default)]
    pub ready_node_count: u32,
    /// Serve every handler in the wanted version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub installed: Vec<String>,
    /// Being installed or upgraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub installing: Vec<String>,
    /// To be installed or upgraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_to_install: Vec<String>,
    /// The last try to install or upgrade failed; the reason is in the
    /// KataNode.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_to_install: Vec<String>,
    /// Being cleaned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uninstalling: Vec<String>,
    /// To be cleaned, perhaps waiting for pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_to_uninstall: Vec<String>,
    /// The last try to clean failed; the reason is in the KataNode.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_to_uninstall: Vec<String>,
    /// Selected, and not able to run virtual machines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ineligible: Vec<String>,
    /// Unreachable for too long to wait for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orphaned: Vec<String>,
    /// Number of nodes by state, named as the lists are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, u32>,
}

/// What the next steps do.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Steps left in all; `steps` holds the first of them.
    #[serde(default)]
    pub total: u32,
    /// The first steps, in the order in which they are taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<PlanStep>,
}

/// What is done to a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum PlanAction {
    /// The first installation.
    Install,
    /// Another version, or other handlers.
    Upgrade,
    /// Removal.
    Uninstall,
}

/// A step of the plan.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PlanStep {
    /// The node.
    pub node: String,
    /// What is done.
    pub action: PlanAction,
    /// The version to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What restarts on the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restarts: Vec<String>,
    /// Live pods the step waits for, as `namespace/name`; at most five.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked_by: Vec<String>,
    /// Why it has not started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
}

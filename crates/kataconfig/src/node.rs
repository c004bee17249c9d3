//! `KataNode`: what the operator wants of a node, and what its agent did.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Verification;
use crate::runtime::{Backend, Machine};

/// What the operator wants of a node. Named after the node, and owned by it.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "kataconfiguration.openshift.io",
    version = "v1alpha1",
    kind = "KataNode",
    plural = "katanodes",
    status = "KataNodeStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "State of the sandboxed runtime on one node. Written by the operator (spec) and by the \
           node's agent (status); people read it.",
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.action"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.step"),
    printcolumn(name = "Percent", type_ = "integer", json_path = ".status.percent"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(
        name = "Virtualization",
        type_ = "string",
        json_path = ".status.virtualization",
        priority = 1
    ),
    printcolumn(
        name = "Kernel",
        type_ = "string",
        json_path = ".status.kernel",
        priority = 1
    ),
    printcolumn(
        name = "Error",
        type_ = "string",
        json_path = ".status.lastError",
        priority = 1
    ),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.since")
)]
#[serde(rename_all = "camelCase")]
pub struct KataNodeSpec {
    /// The KataConfig the node belongs to.
    #[schemars(length(min = 1, max = 63))]
    pub kata_config: String,
    /// What to do.
    #[serde(default)]
    pub action: Action,
    /// The version to have. Absent as long as the node was never told to
    /// install, so that a node nobody touched can be let go at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub version: Option<String>,
    /// The handlers to serve: the wanted ones, and those running pods still need.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub handlers: Vec<HandlerSpec>,
    /// How much the runtime writes to the node's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub log_level: Option<String>,
    /// The files come with the node's system: verify, do not install.
    #[serde(default)]
    pub preinstalled: bool,
    /// The proof that the node can run a machine.
    #[serde(default)]
    pub verification: Verification,
    /// `machineID` of the machine that is meant (machine-id(5)); an agent on
    /// another one does nothing.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub machine_id: String,
    /// Number of the try. An agent tries once for each generation of the
    /// object, so that the operator alone paces what is disturbed.
    #[serde(default)]
    pub attempt: u32,
    /// When this was ordered, to notice a node that never answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordered_at: Option<Time>,
    /// Dismantle even under running pods. Without it the agent refuses.
    #[serde(default)]
    pub force: bool,
}

/// What an agent has to do.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Look at the node, change nothing.
    #[default]
    None,
    /// Install, upgrade, or keep what is installed.
    Install,
    /// Leave the node as it was found.
    Uninstall,
}

/// A handler a node serves.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HandlerSpec {
    /// Its name.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,
    /// What runs the machines.
    #[serde(default)]
    pub backend: Backend,
    /// The machine of a pod that asks for nothing.
    #[serde(default)]
    pub defaults: Machine,
    /// Settings of the runtime by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: BTreeMap<String, String>,
}

/// What an agent did.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KataNodeStatus {
    /// Where it is.
    #[serde(default)]
    pub phase: NodePhase,
    /// What it is doing, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub step: Option<String>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub percent: Option<u32>,
    /// The version new pods get, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub version: Option<String>,
    /// The node's kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub kernel: Option<String>,
    /// How the node runs virtual machines: `kvm`, `nested`, `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub virtualization: Option<String>,
    /// Why the last try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub last_error: Option<String>,
    /// Since when it is in this phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Tries that failed since the last success.
    #[serde(default)]
    pub retries: u32,
    /// Handlers the node's container runtime serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub handlers: Vec<String>,
    /// What was looked at before the installation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub preflight: Vec<Preflight>,
    /// `machineID` of the machine the agent runs on.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub machine_id: String,
    /// Generation of the spec this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Where an agent is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodePhase {
    /// Has looked at the node, changed nothing.
    #[default]
    Idle,
    /// Installing or upgrading.
    Installing,
    /// Installed and verified.
    Ready,
    /// Cleaning.
    Uninstalling,
    /// Clean.
    Removed,
    /// The last try failed. What served before it still does.
    Failed,
}

/// A thing looked at before the installation.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Preflight {
    /// Its name.
    #[schemars(length(max = 64))]
    pub check: String,
    /// Whether it is as it has to be.
    pub passed: bool,
    /// What was found, and the way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
}

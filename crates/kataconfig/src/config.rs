//! `KataConfig`: which nodes run pods in virtual machines, and how they come
//! to.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::quantity::DURATION_PATTERN;
use crate::runtime::Runtime;
use crate::status::KataConfigStatus;

/// What an administrator asks for.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "kataconfiguration.openshift.io",
    version = "v1",
    kind = "KataConfig",
    plural = "kataconfigs",
    status = "KataConfigStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Installs, verifies, upgrades and removes the sandboxed runtime on a cluster's nodes.",
    validation = Rule::new("self.metadata.name.size() <= 63")
        .message("the name of a KataConfig has at most 63 characters, because nodes refer to it"),
    printcolumn(
        name = "InProgress",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='InProgress')].status",
        description = "Status of Kata runtime installation"
    ),
    printcolumn(
        name = "Completed",
        type_ = "integer",
        json_path = ".status.kataNodes.readyNodeCount",
        description = "Number of nodes with Kata runtime installed"
    ),
    printcolumn(
        name = "Total",
        type_ = "integer",
        json_path = ".status.kataNodes.nodeCount",
        description = "Total number of nodes"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct KataConfigSpec {
    /// Which of the worker nodes; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("!has(self.matchExpressions) || self.matchExpressions.all(e, \
            e.operator in ['In', 'NotIn', 'Exists', 'DoesNotExist'])")
            .message("an operator of matchExpressions is In, NotIn, Exists or DoesNotExist"),
        validation = Rule::new("!has(self.matchExpressions) || self.matchExpressions.all(e, \
            (e.operator in ['In', 'NotIn']) == (has(e.values) && e.values.size() > 0))")
            .message("In and NotIn need values, Exists and DoesNotExist take none")
    )]
    #[schemars(schema_with = "selector")]
    pub kata_config_pool_selector: Option<LabelSelector>,
    /// Only nodes that Node Feature Discovery found able to run virtual
    /// machines (`feature.node.kubernetes.io/runtime.kata=true`).
    #[serde(default)]
    pub check_node_eligibility: bool,
    /// How much the runtime writes to the nodes' logs. Not applied where the
    /// Machine Config Operator installs.
    #[serde(default = "default_log_level")]
    #[x_kube(validation = Rule::new(
        "self in ['trace', 'debug', 'info', 'warn', 'warning', 'error', 'fatal', 'panic']")
        .message("logLevel is trace, debug, info, warn, error, fatal or panic"))]
    #[schemars(length(max = 16))]
    pub log_level: String,
    /// Pods as machines of a cloud. Not provided by this operator: `true` is
    /// answered by the condition Blocked.
    #[serde(default)]
    pub enable_peer_pods: bool,

    /// The handlers to offer; one named `kata` when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, b.name == a.name))")
        .message("two runtimes have the same name"))]
    pub runtimes: Vec<Runtime>,
    /// The version to run; the channel's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = "^[0-9A-Za-z][0-9A-Za-z.+_-]*$")
    )]
    pub version: Option<String>,
    /// Where versions come from when none is named, and which one the
    /// condition UpgradeAvailable compares with.
    #[serde(default = "default_channel")]
    #[schemars(
        length(min = 1, max = 40),
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub channel: String,
    /// How nodes are taken, one after another.
    #[serde(default)]
    pub rollout: Rollout,
    /// Who puts the files on a node.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("nodeInstall cannot change; delete the KataConfig and create it anew"))]
    pub node_install: NodeInstall,
    /// The proof that a node can run a machine.
    #[serde(default)]
    pub verification: Verification,
    /// How a node is left.
    #[serde(default)]
    pub uninstall: Uninstall,
}

/// How nodes are taken, one after another.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Nodes being changed or not ready at one time: a number, or a share as
    /// `10%` (rounded down, at least one).
    #[serde(
        default = "default_max_unavailable",
        deserialize_with = "null_is_default"
    )]
    #[schemars(schema_with = "int_or_string")]
    #[x_kube(validation = Rule::new(
        "string(self).matches('^([1-9][0-9]{0,3}|([1-9][0-9]?|100)%)$')")
        .message("maxUnavailable is a number from 1 to 9999, or a share from 1% to 100%"))]
    pub max_unavailable: IntOrString,
    /// Nodes that must be ready with the new version before the others start.
    #[serde(default)]
    #[schemars(range(max = 5000))]
    pub canary: u32,
    /// Failed nodes at which no other node is started.
    #[serde(default = "default_max_failures")]
    #[schemars(range(min = 1, max = 5000))]
    pub max_failures: u32,
    /// Whether failures stop the rollout at all.
    #[serde(default = "yes")]
    pub pause_on_failure: bool,
    /// When nodes may be started; always when empty. Times are UTC.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub windows: Vec<Window>,
    /// Starts no node. What would happen stays visible in `status.plan`.
    #[serde(default)]
    pub paused: bool,
    /// Keeps new pods, of whatever class, off a node while it is changed.
    /// Running ones stay: they survive it. The Machine Config Operator drains
    /// by itself.
    #[serde(default)]
    pub cordon: bool,
}

/// A time in which nodes may be started.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// When it opens: minute, hour, day of month, month, day of week; UTC.
    #[schemars(length(min = 9, max = 100))]
    pub cron: String,
    /// How long it stays open, as `90m` or `4h`.
    #[schemars(length(max = 8), regex(pattern = DURATION_PATTERN))]
    pub duration: String,
}

/// Who puts the files on a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum NodeInstall {
    /// OpenShift's Machine Config Operator where the cluster has it, else the
    /// node agent.
    #[default]
    Auto,
    /// OpenShift's Machine Config Operator: it enables the system's extension
    /// that brings the runtime `kata`, and reboots each node for it. Version
    /// and settings are the system's.
    MachineConfig,
    /// The node agent.
    NodeAgent,
    /// The image of the node's system holds them; the agent only verifies.
    Preinstalled,
}

/// The proof that a node can run a machine. Its agent gives it; where the
/// Machine Config Operator installs, the kubelet's word is all there is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// Boots a machine for each handler before the node counts as ready.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// How often that is done again, as `30m` or `1h`.
    #[serde(default = "default_interval")]
    #[schemars(length(max = 8), regex(pattern = DURATION_PATTERN))]
    pub interval: String,
}

/// How a node is left.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Uninstall {
    /// Dismantles a node under running pods when `grace` is over.
    #[serde(default)]
    pub force: bool,
    /// How long a node that accepts no new pods waits for the running ones,
    /// with `force`.
    #[serde(default = "default_grace")]
    #[schemars(length(max = 8), regex(pattern = DURATION_PATTERN))]
    pub grace: String,
}

/// kube's schemas let `null` through where a number or a text is allowed.
fn null_is_default<'de, D: Deserializer<'de>>(input: D) -> Result<IntOrString, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_else(default_max_unavailable))
}

fn int_or_string(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"x-kubernetes-int-or-string": true})
}

/// A LabelSelector with bounds: an API server refuses rules over lists and
/// texts of any length, because it cannot tell what they cost.
fn selector(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let text = serde_json::json!({"type": "string", "maxLength": 63});
    schemars::json_schema!({
        "type": "object",
        "nullable": true,
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "type": "object",
                "maxProperties": 64,
                "additionalProperties": text,
            },
            "matchExpressions": {
                "type": "array",
                "maxItems": 32,
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {"type": "string", "maxLength": 317},
                        "operator": {"type": "string", "maxLength": 16},
                        "values": {"type": "array", "maxItems": 64, "items": text},
                    },
                },
            },
        },
    })
}

fn yes() -> bool {
    true
}

fn default_log_level() -> String {
    "info".into()
}

fn default_channel() -> String {
    "stable".into()
}

fn default_max_unavailable() -> IntOrString {
    IntOrString::Int(1)
}

fn default_max_failures() -> u32 {
    1
}

fn default_interval() -> String {
    "1h".into()
}

fn default_grace() -> String {
    "10m".into()
}

impl Default for KataConfigSpec {
    fn default() -> Self {
        Self {
            kata_config_pool_selector: None,
            check_node_eligibility: false,
            log_level: default_log_level(),
            enable_peer_pods: false,
            runtimes: Vec::new(),
            version: None,
            channel: default_channel(),
            rollout: Rollout::default(),
            node_install: NodeInstall::default(),
            verification: Verification::default(),
            uninstall: Uninstall::default(),
        }
    }
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            max_unavailable: default_max_unavailable(),
            canary: 0,
            max_failures: default_max_failures(),
            pause_on_failure: true,
            windows: Vec::new(),
            paused: false,
            cordon: false,
        }
    }
}

impl Default for Verification {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: default_interval(),
        }
    }
}

impl Default for Uninstall {
    fn default() -> Self {
        Self {
            force: false,
            grace: default_grace(),
        }
    }
}

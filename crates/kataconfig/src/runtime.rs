//! The runtimes (handlers) a `KataConfig` offers.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::{CPU_PATTERN, MEMORY_PATTERN};

/// What runs the virtual machines of a handler.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Backend {
    /// QEMU, with KVM.
    #[default]
    Qemu,
}

/// The machine of a pod that asks for nothing.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Virtual CPUs; the runtime's own default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 240))]
    pub vcpus: Option<u32>,
    /// Memory, as `512Mi` or `2Gi`; the runtime's own default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), regex(pattern = MEMORY_PATTERN))]
    pub memory: Option<String>,
}

/// What a pod's machine needs beside its containers.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Overhead {
    /// CPU, as `250m` or `1`; computed when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 6), regex(pattern = CPU_PATTERN))]
    pub cpu: Option<String>,
    /// Memory, as `350Mi`; computed when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), regex(pattern = MEMORY_PATTERN))]
    pub memory: Option<String>,
}

/// A handler: its RuntimeClass carries the same name.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Runtime {
    /// Name of the handler and of its RuntimeClass.
    #[schemars(
        length(min = 1, max = 40),
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// What runs the machines.
    #[serde(default)]
    pub backend: Backend,
    /// The machine of a pod that asks for nothing.
    #[serde(default)]
    pub defaults: Machine,
    /// Settings of the runtime by key, for what has no field here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "overrides")]
    #[x_kube(validation = Rule::new("self.all(k, k.size() <= 128)")
        .message("an override's key has at most 128 characters"))]
    pub overrides: BTreeMap<String, String>,
    /// What a machine needs beside its containers.
    #[serde(default)]
    pub overhead: Overhead,
}

/// Texts by key, bounded so that a rule over them is.
fn overrides(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 1024},
    })
}

//! What is known of the cluster, reduced to what decisions need.

use std::collections::BTreeMap;

use bulkhead_kataconfig::{KataConfig, KataNode};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The cluster at one time.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// `KataConfig`s by name.
    pub configs: BTreeMap<String, KataConfig>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, NodeView>,
    /// `KataNode`s by name, which is the node's.
    pub kata_nodes: BTreeMap<String, KataNode>,
    /// Live pods with a runtime class, by the name of their node.
    pub pods: BTreeMap<String, Vec<PodView>>,
    /// RuntimeClasses by name.
    pub classes: BTreeMap<String, ClassView>,
    /// OpenShift's MachineConfigs; none where the cluster has no such API.
    pub machine_configs: Option<MachineConfigs>,
    /// The version each channel offers.
    pub releases: BTreeMap<String, String>,
    /// What the API server refuses again and again, and why.
    pub refused: Option<String>,
    /// The time.
    pub now: Timestamp,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Identity of the object.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether its kubelet says that it is ready.
    pub ready: bool,
    /// Since when.
    pub ready_changed: Option<Timestamp>,
    /// Whether it holds the startup taint.
    pub startup_taint: bool,
    /// Whether it is closed to new pods.
    pub unschedulable: bool,
    /// Whether the operator closed it.
    pub cordoned: bool,
    /// `machineID` its kubelet reports.
    pub machine_id: String,
    /// Handlers its kubelet reports (Kubernetes 1.30 on); `None` when it does
    /// not tell.
    pub handlers: Option<Vec<String>>,
    /// Since when it accepts no new pods, because its system is to lose the
    /// runtime.
    pub withdrawn_since: Option<Timestamp>,
    /// What the Machine Config Operator wrote on it.
    pub machine: Option<MachineView>,
}

/// What the Machine Config Operator wrote on a node, as the annotations
/// `machineconfiguration.openshift.io/…`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MachineView {
    /// `currentConfig`: the rendered MachineConfig the node has.
    pub current: String,
    /// `desiredConfig`: the one it is to have.
    pub desired: String,
    /// `state`: Done, Working, Degraded and others.
    pub state: String,
    /// `reason`: why it is degraded.
    pub reason: String,
}

/// What is known of the Machine Config Operator.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MachineConfigs {
    /// The system's extension that brings the runtime.
    pub extension: String,
    /// MachineConfigs by name, the rendered ones too.
    pub configs: BTreeMap<String, MachineConfigView>,
    /// MachineConfigPools by name.
    pub pools: BTreeMap<String, PoolView>,
}

/// A MachineConfig.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MachineConfigView {
    /// Whether the operator made it.
    pub managed: bool,
    /// The role (label) of the pools that take it.
    pub role: String,
    /// The pool it was rendered for.
    pub pool: Option<String>,
    /// The system's extensions it enables.
    pub extensions: Vec<String>,
}

/// A MachineConfigPool.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolView {
    /// Whether the operator made it.
    pub managed: bool,
    /// What the operator writes of it.
    pub spec: PoolSpec,
    /// Whether somebody holds its rollouts.
    pub paused: bool,
    /// Names of the MachineConfigs its newest configuration was made of.
    pub sources: Vec<String>,
    /// Why it cannot be rendered.
    pub degraded: Option<String>,
}

/// What makes up a MachineConfigPool.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolSpec {
    /// Its nodes.
    pub node_selector: LabelSelector,
    /// Its MachineConfigs.
    pub config_selector: LabelSelector,
    /// Nodes it may change at a time.
    pub max_unavailable: Option<IntOrString>,
}

/// A pod that has a runtime class and has not ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its runtime class.
    pub class: String,
}

/// A RuntimeClass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassView {
    /// Its handler.
    pub handler: String,
    /// Whether the operator made it.
    pub managed: bool,
    /// CPU a pod needs beside its containers.
    pub cpu: String,
    /// Memory a pod needs beside its containers.
    pub memory: String,
    /// Labels of the nodes its pods may run on.
    pub node_selector: BTreeMap<String, String>,
}

//! What is known of the cluster, reduced to what decisions need.

use std::collections::BTreeMap;

use bulkhead_kataconfig::{KataConfig, KataNode};
use jiff::Timestamp;

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
    /// The version each channel offers.
    pub releases: BTreeMap<String, String>,
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
    /// `machineID` its kubelet reports.
    pub machine_id: String,
    /// Handlers its kubelet reports (Kubernetes 1.30 on); `None` when it does
    /// not tell.
    pub handlers: Option<Vec<String>>,
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

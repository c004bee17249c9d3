//! What each `KataConfig` asks for, and which node belongs to which.

use std::collections::BTreeMap;

use bulkhead_kataconfig::{
    CONTROL_PLANE_LABELS, DEFAULT_HANDLER, FEATURE_LABEL, HandlerSpec, KataConfig, NodeInstall,
    Overhead, Runtime, WORKER_LABEL, millicores, parse_duration, parse_memory,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::{Selector, SelectorExt};

use crate::machine;
use crate::snapshot::{ClassView, NodeView, Snapshot};
use crate::window::Windows;

/// What keeps a `KataConfig` from being acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Obstacle {
    /// For programs.
    pub(crate) reason: &'static str,
    /// For people, with the way out.
    pub(crate) message: String,
}

/// A `KataConfig`, understood.
#[derive(Debug)]
pub(crate) struct Want<'a> {
    pub(crate) name: &'a str,
    pub(crate) config: &'a KataConfig,
    pub(crate) deleting: bool,
    pub(crate) version: String,
    pub(crate) handlers: Vec<HandlerSpec>,
    pub(crate) overheads: BTreeMap<String, Overhead>,
    pub(crate) windows: Windows,
    pub(crate) obstacle: Option<Obstacle>,
    /// Whether the Machine Config Operator installs, not the nodes' agents.
    pub(crate) by_machine_config: bool,
    selector: Option<Selector>,
    /// Whether workers are labelled so here, all of them.
    workers_are_labelled: bool,
}

/// OpenShift labels every worker. Elsewhere most have no role at all, and a
/// worker is what is not told to be something else.
fn is_worker(node: &NodeView, labelled: bool) -> bool {
    let has = |label: &str| node.labels.contains_key(label);
    has(WORKER_LABEL) || (!labelled && !CONTROL_PLANE_LABELS.into_iter().any(has))
}

impl Want<'_> {
    /// Whether a node is one of those it asks for.
    pub(crate) fn selects(&self, node: &NodeView) -> bool {
        let feature = node.labels.get(FEATURE_LABEL).is_some_and(|v| v == "true");
        let chosen = self
            .selector
            .as_ref()
            .is_some_and(|selector| selector.matches(&node.labels));
        !self.deleting
            && chosen
            && is_worker(node, self.workers_are_labelled)
            && (feature || !self.config.spec.check_node_eligibility)
    }

    /// Nodes that may be unavailable, of `members`.
    pub(crate) fn max_unavailable(&self, members: usize) -> usize {
        match &self.config.spec.rollout.max_unavailable {
            IntOrString::Int(count) => usize::try_from(*count).unwrap_or(1).max(1),
            IntOrString::String(share) => {
                let percent = share.trim_end_matches('%').parse::<usize>().unwrap_or(0);
                (members * percent.min(100) / 100).max(1)
            }
        }
    }

    /// How long running pods are waited for; `None` is for ever.
    pub(crate) fn grace(&self) -> Option<std::time::Duration> {
        let uninstall = &self.config.spec.uninstall;
        uninstall
            .force
            .then(|| parse_duration(&uninstall.grace))
            .flatten()
    }
}

/// The `KataConfig`s, oldest first: who was there before keeps its nodes.
pub(crate) fn wants(snapshot: &Snapshot) -> Vec<Want<'_>> {
    let mut configs: Vec<_> = snapshot.configs.iter().collect();
    configs.sort_by_key(|(name, config)| {
        (
            config
                .metadata
                .creation_timestamp
                .as_ref()
                .map(|time| time.0),
            *name,
        )
    });
    let mut wants: Vec<_> = configs
        .into_iter()
        .map(|(name, config)| want(snapshot, name, config))
        .collect();
    machine::oppose(snapshot, &mut wants);
    wants
}

fn want<'a>(snapshot: &'a Snapshot, name: &'a str, config: &'a KataConfig) -> Want<'a> {
    let spec = &config.spec;
    let runtimes = runtimes(config);
    let handler = |runtime: &Runtime| HandlerSpec {
        name: runtime.name.clone(),
        backend: runtime.backend,
        defaults: runtime.defaults.clone(),
        overrides: runtime.overrides.clone(),
    };
    let selector = Selector::try_from(spec.kata_config_pool_selector.clone().unwrap_or_default());
    let windows = Windows::read(&spec.rollout.windows);
    let by_machine_config = machine::chosen(snapshot, name, config);
    let of_the_system = String::new();
    let version = spec
        .version
        .as_ref()
        .or_else(|| snapshot.releases.get(&spec.channel));
    let version = match by_machine_config {
        true => Some(&of_the_system),
        false => version,
    };
    let refused = refused(config, snapshot, by_machine_config);
    let obstacle = if refused.is_some() {
        refused
    } else if let Err(error) = &selector {
        let message = format!("kataConfigPoolSelector cannot be read: {error}; correct it");
        Some(Obstacle {
            reason: "InvalidSelector",
            message,
        })
    } else if let Err(window) = &windows {
        let message = format!(
            "the window `{window}` cannot be read; write five cron fields and a duration as `4h`"
        );
        Some(Obstacle {
            reason: "InvalidWindow",
            message,
        })
    } else if version.is_none() {
        let known: Vec<_> = snapshot.releases.keys().map(String::as_str).collect();
        let message = format!(
            "there is no channel `{}`; use one of {} or name a version",
            spec.channel,
            known.join(", ")
        );
        Some(Obstacle {
            reason: "UnknownChannel",
            message,
        })
    } else {
        foreign_class(snapshot, &runtimes)
    };
    Want {
        name,
        config,
        deleting: config.metadata.deletion_timestamp.is_some(),
        version: version.cloned().unwrap_or_default(),
        handlers: runtimes.iter().map(handler).collect(),
        overheads: runtimes
            .iter()
            .map(|r| (r.name.clone(), overhead(r)))
            .collect(),
        windows: windows.unwrap_or_default(),
        obstacle,
        by_machine_config,
        selector: selector.ok(),
        workers_are_labelled: snapshot.machine_configs.is_some(),
    }
}

fn runtimes(config: &KataConfig) -> Vec<Runtime> {
    if config.spec.runtimes.is_empty() {
        return vec![Runtime {
            name: DEFAULT_HANDLER.into(),
            ..Runtime::default()
        }];
    }
    config.spec.runtimes.clone()
}

/// What this operator, or this cluster, does not provide.
fn refused(config: &KataConfig, snapshot: &Snapshot, by_machine_config: bool) -> Option<Obstacle> {
    if config.spec.node_install == NodeInstall::MachineConfig && snapshot.machine_configs.is_none()
    {
        let message = "this cluster has no MachineConfigs (OpenShift's Machine Config Operator); \
                       delete this KataConfig and create it with nodeInstall: nodeAgent";
        return Some(Obstacle {
            reason: "NoMachineConfigs",
            message: message.into(),
        });
    }
    let refused = by_machine_config
        .then(|| machine::refused(config))
        .flatten();
    if refused.is_some() {
        return refused;
    }
    config.spec.enable_peer_pods.then(|| Obstacle {
        reason: "PeerPodsNotProvided",
        message: "pods as machines of a cloud are not provided; set enablePeerPods to false".into(),
    })
}

/// A RuntimeClass of somebody else under a name that is needed.
fn foreign_class(snapshot: &Snapshot, runtimes: &[Runtime]) -> Option<Obstacle> {
    let foreign = runtimes.iter().find(|runtime| {
        let class = snapshot.classes.get(&runtime.name);
        class.is_some_and(|class: &ClassView| !class.managed || class.handler != runtime.name)
    })?;
    let message = format!(
        "a RuntimeClass `{}` that is not the operator's exists; delete it, or give the runtime \
         another name",
        foreign.name
    );
    Some(Obstacle {
        reason: "RuntimeClassNotOurs",
        message,
    })
}

/// What a machine needs beside its containers: the machine monitor, the
/// guest's kernel and its agent. The base is the OSC operator's; to it come the
/// machine's page tables, eight bytes for each 4 KiB.
fn overhead(runtime: &Runtime) -> Overhead {
    let given = &runtime.overhead;
    let machine = runtime
        .defaults
        .memory
        .as_deref()
        .and_then(parse_memory)
        .unwrap_or(0);
    let memory = given.memory.as_deref().and_then(parse_memory);
    let cpu = given.cpu.as_deref().and_then(millicores);
    Overhead {
        cpu: Some(format!("{}m", cpu.unwrap_or(250))),
        memory: Some(format!(
            "{}Mi",
            memory.unwrap_or(350 + machine.div_ceil(512))
        )),
    }
}

/// For each node its `KataConfig` (index in `wants`), and for each
/// `KataConfig` the nodes an older one took before it.
pub(crate) struct Owners<'a> {
    pub(crate) of: BTreeMap<&'a str, usize>,
    pub(crate) contested: BTreeMap<usize, BTreeMap<&'a str, usize>>,
}

/// Gives each selected node to the oldest `KataConfig` that selects it.
pub(crate) fn owners<'a>(snapshot: &'a Snapshot, wants: &[Want<'_>]) -> Owners<'a> {
    let mut owners = Owners {
        of: BTreeMap::new(),
        contested: BTreeMap::new(),
    };
    for (node, view) in &snapshot.nodes {
        for (index, want) in wants.iter().enumerate() {
            if !want.selects(view) {
                continue;
            }
            if let Some(first) = owners.of.get(node.as_str()) {
                owners
                    .contested
                    .entry(index)
                    .or_default()
                    .insert(node, *first);
            } else {
                owners.of.insert(node, index);
            }
        }
    }
    owners
}

//! A thousand machines whose agents work, fail, dawdle, lie and vanish, and
//! what must never happen to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_apiserver::Server;
use bulkhead_kataconfig::{
    Action, KataConfig, KataNode, KataNodeSpec, KataNodeStatus, NodePhase, Preflight, runtime_label,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::sync::watch;

/// API group of the operator's objects.
pub(crate) const GROUP: &str = "kataconfiguration.openshift.io";
/// The handler everybody gets.
pub(crate) const HANDLER: &str = "kata";

/// A number from a seed and words, the same in every run whatever comes first.
pub(crate) fn dice(seed: u64, words: &[&str]) -> u64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    for byte in words.iter().flat_map(|word| word.bytes().chain([0xff])) {
        mixed = (mixed ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        mixed ^= mixed >> 29;
    }
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 31)
}

/// A machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machine {
    /// What machine-id(5) says.
    pub(crate) id: String,
    /// The version that is on it.
    pub(crate) installed: Option<String>,
    /// Whether its container runtime serves the handler.
    pub(crate) serves: bool,
    /// Whether it can run virtual machines.
    pub(crate) capable: bool,
    /// Whether it is cut off.
    pub(crate) vanished: bool,
    /// Names of the live pods on it.
    pub(crate) pods: BTreeSet<String>,
}

/// What is, and what was seen.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) machines: BTreeMap<String, Machine>,
    pub(crate) kata_nodes: BTreeMap<String, KataNode>,
    pub(crate) config: Option<KataConfig>,
    /// Nodes with the handler's label.
    pub(crate) labelled: BTreeSet<String>,
    /// Nodes between an order and its answer.
    outstanding: BTreeSet<String>,
    /// How many of them there may be.
    pub(crate) at_most: usize,
    /// The most there were.
    pub(crate) most: usize,
    /// Tries that failed.
    pub(crate) failures: usize,
    /// What must never happen, and did.
    pub(crate) wrong: Vec<String>,
}

impl State {
    /// Where everything stands, in a few lines: a thousand nodes are not read.
    pub(crate) fn told(&self) -> String {
        let status = self.config.clone().unwrap_or_default().status;
        let status = status.unwrap_or_default();
        let conditions = status.conditions.iter();
        let conditions =
            conditions.map(|own| format!("{} {}: {}", own.type_, own.status, own.message));
        let mut on: BTreeMap<Option<&str>, Vec<&str>> = BTreeMap::new();
        for (name, machine) in &self.machines {
            on.entry(machine.installed.as_deref())
                .or_default()
                .push(name);
        }
        let on = on.iter().map(|(version, names)| {
            let some = &names[..names.len().min(8)];
            format!("on {} nodes {version:?}: {some:?}", names.len())
        });
        let out = [format!("out: {:?}", self.outstanding)];
        let counts = [format!("counts: {:?}", status.kata_nodes.counts)];
        let all: Vec<String> = conditions.chain(counts).chain(on).chain(out).collect();
        all.join("\n")
    }
}

/// The machines, what their agents and kubelets write, and the judge of it all.
#[derive(Clone)]
pub(crate) struct World {
    server: Arc<Server>,
    seed: u64,
    state: Arc<Mutex<State>>,
    /// Moves with everything that is seen.
    pub(crate) moved: Arc<watch::Sender<u64>>,
}

impl World {
    pub(crate) fn new(server: Arc<Server>, seed: u64, at_most: usize) -> Self {
        let state = State {
            at_most,
            ..State::default()
        };
        Self {
            server,
            seed,
            state: Arc::new(Mutex::new(state)),
            moved: Arc::new(watch::Sender::new(0)),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chance(&self, words: &[&str], permille: u64) -> bool {
        dice(self.seed, words) % 1000 < permille
    }

    /// A node registers.
    pub(crate) fn join(&self, name: &str) {
        let even = dice(self.seed, &["pool", name]).is_multiple_of(2);
        let machine = Machine {
            id: format!("machine-of-{name}"),
            capable: !self.chance(&["capable", name], 10),
            ..Machine::default()
        };
        let pool = if even { "even" } else { "odd" };
        self.server.load(node(name, pool, &machine.id)).unwrap();
        self.state().machines.insert(name.to_owned(), machine);
    }

    /// A node is cut off, and has been for long.
    pub(crate) fn vanish(&self, name: &str) {
        self.state().machines.get_mut(name).unwrap().vanished = true;
        self.ready(name, "Unknown");
    }

    /// It is back, and its agent looks what it was told.
    pub(crate) fn come_back(&self, name: &str) {
        self.state().machines.get_mut(name).unwrap().vanished = false;
        self.ready(name, "True");
        let known = self.state().kata_nodes.get(name).cloned();
        if let Some(known) = known {
            self.work(&known);
        }
    }

    fn ready(&self, name: &str, status: &str) {
        let change = |node: &mut Value| node["status"]["conditions"][0]["status"] = json!(status);
        self.server.edit("", "nodes", ("", name), change).unwrap();
    }

    /// Another machine takes a node's name, with nothing on it.
    pub(crate) fn replace(&self, name: &str) {
        let id = format!("second-machine-of-{name}");
        let mut state = self.state();
        let machine = state.machines.get_mut(name).unwrap();
        *machine = Machine {
            id: id.clone(),
            capable: true,
            ..Machine::default()
        };
        state.outstanding.remove(name);
        drop(state);
        let change = |node: &mut Value| {
            node["status"]["nodeInfo"]["machineID"] = json!(id);
            node["status"]["runtimeHandlers"] = json!([{ "name": "" }]);
        };
        self.server.edit("", "nodes", ("", name), change).unwrap();
    }

    /// A pod runs on a node.
    pub(crate) fn run_pod(&self, node: &str, name: &str) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "default" },
            "spec": { "runtimeClassName": HANDLER, "nodeName": node,
                "containers": [{ "name": "c", "image": "i" }] },
            "status": { "phase": "Running" },
        });
        self.server.load(pod).unwrap();
        let mut state = self.state();
        let machine = state.machines.get_mut(node).unwrap();
        machine.pods.insert(name.to_owned());
    }

    /// It ends.
    pub(crate) fn end_pod(&self, node: &str, name: &str) {
        let mut state = self.state();
        state.machines.get_mut(node).unwrap().pods.remove(name);
        drop(state);
        let end = |pod: &mut Value| pod["status"]["phase"] = json!("Succeeded");
        self.server
            .edit("", "pods", ("default", name), end)
            .unwrap();
    }

    /// A KataNode was written, by the operator or by its agent.
    pub(crate) fn saw_kata_node(&self, node: &KataNode) {
        let name = node.name_any();
        let mut state = self.state();
        let before = state.kata_nodes.insert(name.clone(), node.clone());
        let orders = |action, kata_node: &KataNode| kata_node.spec.action == action;
        let new = before.is_none_or(|before| !orders(Action::Uninstall, &before));
        let machine = state.machines.get(&name).cloned().unwrap_or_default();
        let meant = machine.id == node.spec.machine_id;
        if new && orders(Action::Uninstall, node) && meant && !machine.pods.is_empty() {
            let wrong = format!("{name} is to be dismantled under {:?}", machine.pods);
            state.wrong.push(wrong);
        }
        if orders(Action::None, node) || answered(node) || !meant {
            state.outstanding.remove(&name);
        } else if state.outstanding.insert(name.clone()) {
            let now = state.outstanding.len();
            state.most = state.most.max(now);
            if now > state.at_most {
                let wrong = format!("{now} nodes are out, {name} the last");
                state.wrong.push(wrong);
            }
        }
        drop(state);
        self.work(node);
        self.moved.send_modify(|count| *count += 1);
    }

    /// A KataNode is gone.
    pub(crate) fn lost_kata_node(&self, node: &KataNode) {
        let name = node.name_any();
        let mut state = self.state();
        state.kata_nodes.remove(&name);
        state.outstanding.remove(&name);
        if let Some(machine) = state.machines.get(&name)
            && machine.id == node.spec.machine_id
            && machine.installed.is_some()
        {
            state.wrong.push(format!("{name} is forgotten"));
        }
        drop(state);
        self.moved.send_modify(|count| *count += 1);
    }

    /// A node was written, by the operator or by its kubelet.
    pub(crate) fn saw_node(&self, node: &Node) {
        let name = node.name_any();
        let label = node.labels().contains_key(&runtime_label(HANDLER));
        let status = node.status.as_ref();
        let handlers = status.and_then(|status| status.runtime_handlers.as_ref());
        let mut handlers = handlers.into_iter().flatten();
        let serves = handlers.any(|handler| handler.name.as_deref() == Some(HANDLER));
        let mut state = self.state();
        if !label {
            state.labelled.remove(&name);
        } else if state.labelled.insert(name.clone()) && !serves {
            state
                .wrong
                .push(format!("{name} is offered and serves nothing"));
        }
        drop(state);
        self.moved.send_modify(|count| *count += 1);
    }

    /// A node is gone, and its machine.
    pub(crate) fn lost_node(&self, name: &str) {
        let mut state = self.state();
        state.labelled.remove(name);
        state.machines.remove(name);
    }

    pub(crate) fn saw_config(&self, config: Option<KataConfig>) {
        self.state().config = config;
        self.moved.send_modify(|count| *count += 1);
    }

    /// The agent of a node does what it is told, in its own time.
    fn work(&self, node: &KataNode) {
        if answered(node) {
            return;
        }
        let name = node.name_any();
        let generation = node.metadata.generation;
        let spec = node.spec.clone();
        let try_of = [&name[..], &generation.unwrap_or(0).to_string()].join(" ");
        let slow = self.chance(&["slow", &try_of], 10);
        let time = dice(self.seed, &["time", &try_of]) % if slow { 1000 } else { 20 };
        let world = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(time)).await;
            world.answer(&name, generation, &spec, &try_of);
        });
    }

    fn answer(&self, name: &str, generation: Option<i64>, spec: &KataNodeSpec, try_of: &str) {
        let mut state = self.state();
        let Some(machine) = state.machines.get_mut(name) else {
            return;
        };
        let known = |object: &Value| object["metadata"]["generation"].as_i64() == generation;
        if machine.vanished || machine.id != spec.machine_id {
            return;
        }
        let fails = self.chance(&["fails", try_of], 40) && spec.action != Action::None;
        let lies = self.chance(&["lies", try_of], 10) && spec.action == Action::Install;
        let phase = match spec.action {
            _ if fails => NodePhase::Failed,
            Action::None => NodePhase::Idle,
            Action::Install => {
                machine.installed.clone_from(&spec.version);
                machine.serves = true;
                NodePhase::Ready
            }
            Action::Uninstall => {
                machine.installed = None;
                machine.serves = false;
                NodePhase::Removed
            }
        };
        let machine = machine.clone();
        state.failures += usize::from(fails);
        drop(state);
        let told = told(&machine, phase, generation);
        if !lies {
            self.serve(name, machine.serves);
        }
        let _ = self
            .server
            .edit(GROUP, "katanodes", ("", name), |object: &mut Value| {
                if known(object) {
                    object["status"] = json!(told);
                }
            });
        if lies {
            // Its runtime serves the handler later than its agent said.
            let (world, name) = (self.clone(), name.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                world.serve(&name, true);
            });
        }
    }

    /// What the kubelet tells of its container runtime.
    fn serve(&self, name: &str, serves: bool) {
        let own = serves.then(|| json!({ "name": HANDLER }));
        let handlers: Vec<_> = own.into_iter().chain([json!({ "name": "" })]).collect();
        // A node that is gone has no kubelet.
        let _ = self
            .server
            .edit("", "nodes", ("", name), |node: &mut Value| {
                node["status"]["runtimeHandlers"] = json!(handlers);
            });
    }
}

/// Whether an agent answered the order it has.
fn answered(node: &KataNode) -> bool {
    let told = node.status.as_ref();
    told.is_some_and(|told| {
        told.observed_generation.is_some() && told.observed_generation == node.metadata.generation
    })
}

fn told(machine: &Machine, phase: NodePhase, generation: Option<i64>) -> KataNodeStatus {
    // Long ago, so that a failed try may be made again at once.
    let since = Timestamp::now() - SignedDuration::from_hours(2);
    let handlers = machine.serves.then(|| HANDLER.to_owned());
    KataNodeStatus {
        phase,
        version: machine.installed.clone(),
        handlers: handlers.into_iter().collect(),
        last_error: (phase == NodePhase::Failed).then(|| "the disk is full".to_owned()),
        since: Some(Time(since)),
        preflight: vec![Preflight {
            check: "virtualization".to_owned(),
            passed: machine.capable,
            message: None,
        }],
        machine_id: machine.id.clone(),
        observed_generation: generation,
        ..KataNodeStatus::default()
    }
}

fn node(name: &str, pool: &str, machine: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name,
            "labels": { "node-role.kubernetes.io/worker": "", "pool": pool } },
        "spec": { "taints": [
            { "key": "kataconfiguration.openshift.io/not-ready", "effect": "NoSchedule" },
        ]},
        "status": {
            "nodeInfo": {
                "machineID": machine, "architecture": "amd64", "bootID": "",
                "containerRuntimeVersion": "containerd://2.1.0", "kernelVersion": "6.12",
                "kubeProxyVersion": "", "kubeletVersion": "v1.34.0", "operatingSystem": "linux",
                "osImage": "Debian", "systemUUID": "",
            },
            // Long ago, so that a node that is cut off counts as unreachable at once.
            "conditions": [{ "type": "Ready", "status": "True",
                "lastTransitionTime": "2026-01-01T00:00:00Z" }],
            "runtimeHandlers": [{ "name": "" }],
        },
    })
}

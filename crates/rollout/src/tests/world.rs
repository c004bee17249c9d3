//! A cluster in memory: objects as an API server keeps them, and node agents
//! that work, fail, lie, crash and vanish. What must never happen is checked
//! where it would happen.

use std::collections::BTreeMap;

use bulkhead_kataconfig::*;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::dice::Dice;
use super::mco::Mco;
use crate::{Change, NodeView, ORPHANED_AFTER, Outcome, Snapshot, plan};

/// What an agent does at present.
struct Work {
    generation: Option<i64>,
    order: KataNodeSpec,
    ticks: usize,
    fails: bool,
}

/// A machine and the agent on it.
#[derive(Default)]
pub(super) struct Machine {
    pub(super) installed: Option<String>,
    pub(super) handlers: Vec<String>,
    pub(super) reachable: bool,
    pub(super) capable: bool,
    lies: bool,
    pub(super) mute: bool,
    work: Option<Work>,
}

/// How much goes wrong.
#[derive(Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) fail: usize,
    pub(super) crash: usize,
    pub(super) replace: usize,
    pub(super) lie: usize,
    pub(super) kill_controller: usize,
}

pub(super) struct World {
    pub(super) snapshot: Snapshot,
    pub(super) machines: BTreeMap<String, Machine>,
    pub(super) dice: Dice,
    pub(super) faults: Faults,
    pub(super) pods_wanted: usize,
    /// Of a thousand, each tick: pods that end, machines that return.
    pub(super) pods_end: usize,
    pub(super) machines_return: usize,
    pub(super) writes: usize,
    pub(super) mco: Option<Mco>,
    /// What each node's daemon of the MCO is at, and for how long yet.
    pub(super) rollouts: BTreeMap<String, (String, usize)>,
    pub(super) serial: usize,
}

impl World {
    pub(super) fn new(nodes: usize, seed: u64) -> Self {
        let mut world = Self {
            snapshot: Snapshot {
                releases: BTreeMap::from([("stable".into(), "1.0.0".into())]),
                now: Timestamp::from_second(1_800_000_000).unwrap(),
                ..Snapshot::default()
            },
            machines: BTreeMap::new(),
            dice: Dice(seed),
            faults: Faults::default(),
            pods_wanted: 0,
            pods_end: 50,
            machines_return: 60,
            writes: 0,
            mco: None,
            rollouts: BTreeMap::new(),
            serial: 0,
        };
        for number in 0..nodes {
            world.join(&format!("node-{number:04}"));
        }
        world
    }

    /// A node registers.
    pub(super) fn join(&mut self, name: &str) {
        self.serial += 1;
        let pool = if self.serial.is_multiple_of(2) {
            "even"
        } else {
            "odd"
        };
        let labels = [(WORKER_LABEL, ""), ("pool", pool)];
        let node = NodeView {
            uid: format!("uid-{}", self.serial),
            labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            ready: true,
            ready_changed: Some(self.snapshot.now),
            startup_taint: true,
            machine_id: format!("machine-{}", self.serial),
            handlers: Some(vec![String::new()]),
            ..NodeView::default()
        };
        self.snapshot.nodes.insert(name.into(), node);
        let machine = Machine {
            reachable: true,
            capable: true,
            ..Machine::default()
        };
        self.machines.insert(name.into(), machine);
    }

    pub(super) fn config(&mut self, name: &str, edit: impl FnOnce(&mut KataConfigSpec)) {
        let now = self.snapshot.now;
        let config = self
            .snapshot
            .configs
            .entry(name.into())
            .or_insert_with(|| KataConfig {
                metadata: ObjectMeta {
                    name: Some(name.into()),
                    creation_timestamp: Some(Time(now)),
                    generation: Some(0),
                    ..ObjectMeta::default()
                },
                ..KataConfig::default()
            });
        edit(&mut config.spec);
        *config.metadata.generation.get_or_insert(0) += 1;
    }

    pub(super) fn delete_config(&mut self, name: &str) {
        let now = self.snapshot.now;
        let config = self.snapshot.configs.get_mut(name).unwrap();
        config.metadata.deletion_timestamp = Some(Time(now));
        if config.metadata.finalizers.is_none() {
            self.snapshot.configs.remove(name);
        }
    }

    pub(super) fn status(&self, name: &str) -> &KataConfigStatus {
        self.snapshot.configs[name].status.as_ref().unwrap()
    }

    pub(super) fn condition(&self, name: &str, kind: &str) -> (&str, &str, &str) {
        let mut conditions = self.status(name).conditions.iter();
        let found = conditions
            .find(|condition| condition.type_ == kind)
            .unwrap();
        (&found.status, &found.reason, &found.message)
    }

    /// Time passes: machines work, then the controller runs.
    pub(super) fn tick(&mut self) -> usize {
        self.snapshot.now += SignedDuration::from_secs(30);
        let names: Vec<_> = self.snapshot.nodes.keys().cloned().collect();
        for name in &names {
            self.misfortune(name);
            self.work(name);
        }
        self.mco_turn();
        self.schedule();
        self.control()
    }

    /// Ticks until nothing is written for a while.
    pub(super) fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..20_000 {
            quiet = if self.tick() == 0 { quiet + 1 } else { 0 };
            // Longer than the longest pause between two tries.
            if quiet > 100 {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// One run of the controller, which may be killed after any write.
    pub(super) fn control(&mut self) -> usize {
        let Outcome { steps, wake } = plan(&self.snapshot);
        assert!(
            wake.is_none_or(|wake| wake > self.snapshot.now),
            "it would spin"
        );
        if self.mco.is_some() {
            self.check_words(&steps);
        }
        let killed = self.dice.permille(self.faults.kill_controller);
        let survives = if killed {
            self.dice.below(steps.len() + 1)
        } else {
            steps.len()
        };
        for step in steps.into_iter().take(survives) {
            self.apply(step.change);
        }
        self.writes += survives;
        survives
    }

    fn apply(&mut self, change: Change) {
        if self.apply_mco(&change) {
            return;
        }
        match change {
            Change::AddFinalizer { config } => {
                let config = self.snapshot.configs.get_mut(&config).unwrap();
                config.metadata.finalizers = Some(vec![FINALIZER.into()]);
            }
            Change::RemoveFinalizer { config } => {
                let gone = self.snapshot.configs.remove(&config).unwrap();
                assert!(gone.metadata.deletion_timestamp.is_some());
            }
            Change::ApplyKataNode {
                name,
                node_uid,
                spec,
                withdrawn_since,
            } => {
                self.apply_kata_node(&name, &node_uid, *spec, withdrawn_since);
            }
            Change::DeleteKataNode { name } => self.delete_kata_node(&name),
            Change::PatchNode {
                name,
                labels,
                annotations,
                lift_taint,
                unschedulable,
            } => {
                let moves = self.mco.is_some() && labels.contains_key(MEMBER_LABEL);
                let was_out = moves && self.out(&name);
                if labels.get(MEMBER_LABEL) == Some(&None) && self.has_pool() {
                    let mut configs = self.snapshot.configs.values();
                    let config = configs.next().map(|config| config.spec.clone());
                    self.check_leave(&name, &config.unwrap_or_default());
                }
                let node = self.snapshot.nodes.get_mut(&name).unwrap();
                for (label, value) in labels {
                    match value {
                        Some(value) => {
                            let runtime = label.strip_prefix(RUNTIME_LABEL_PREFIX);
                            let serves = &self.machines[&name].handlers;
                            let true_ = runtime.is_none_or(|h| serves.iter().any(|own| own == h));
                            assert!(true_, "{name} is offered and serves nothing");
                            node.labels.insert(label, value);
                        }
                        None => {
                            node.labels
                                .remove(&label)
                                .expect("a label that is not there");
                        }
                    }
                }
                node.startup_taint &= !lift_taint;
                for (key, value) in annotations {
                    match key.as_str() {
                        CORDONED_ANNOTATION => node.cordoned = value.is_some(),
                        WITHDRAWN_ANNOTATION => {
                            node.withdrawn_since = value.map(|at| at.parse().unwrap());
                        }
                        other => panic!("an annotation {other}"),
                    }
                }
                if let Some(closed) = unschedulable {
                    assert_ne!(node.unschedulable, closed, "{name} is so already");
                    node.unschedulable = closed;
                }
                if moves {
                    self.check_out(&name, was_out);
                }
            }
            Change::ApplyClass { name, class } => {
                let prefix = format!("{RUNTIME_LABEL_PREFIX}{name}");
                let new = !self.snapshot.classes.contains_key(&name);
                let served = self
                    .snapshot
                    .nodes
                    .values()
                    .any(|n| n.labels.contains_key(&prefix));
                assert!(!new || served, "a class before any node serves it");
                self.snapshot.classes.insert(name, class);
            }
            Change::DeleteClass { name } => {
                self.snapshot.classes.remove(&name).unwrap();
            }
            Change::SetStatus { config, status } => {
                self.snapshot.configs.get_mut(&config).unwrap().status = Some(*status);
            }
            _ => unreachable!("the MCO's"),
        }
    }

    fn apply_kata_node(
        &mut self,
        name: &str,
        uid: &str,
        spec: KataNodeSpec,
        withdrawn: Option<Timestamp>,
    ) {
        assert!(
            self.snapshot
                .configs
                .get(&spec.kata_config)
                .is_none_or(|config| { config.metadata.finalizers.is_some() }),
            "a node is touched before the finalizer is there"
        );
        let before = self.snapshot.kata_nodes.get(name);
        let was_out = self.outstanding(name);
        if let Some(before) = before.filter(|before| before.spec != spec) {
            self.check_loss(name, &before.spec, &spec);
        }
        let kata_node = self
            .snapshot
            .kata_nodes
            .entry(name.into())
            .or_insert_with(|| KataNode {
                metadata: ObjectMeta {
                    name: Some(name.into()),
                    generation: Some(0),
                    owner_references: Some(vec![OwnerReference {
                        kind: "Node".into(),
                        uid: uid.into(),
                        ..OwnerReference::default()
                    }]),
                    ..ObjectMeta::default()
                },
                ..KataNode::default()
            });
        let generation = kata_node.metadata.generation.unwrap();
        if kata_node.spec != spec || generation == 0 {
            kata_node.metadata.generation = Some(generation + 1);
        }
        kata_node.metadata.annotations =
            withdrawn.map(|at| BTreeMap::from([(WITHDRAWN_ANNOTATION.to_owned(), at.to_string())]));
        let config = spec.kata_config.clone();
        kata_node.spec = spec;
        if !was_out && self.outstanding(name) {
            let configs = &self.snapshot.configs;
            let cordon = configs
                .get(&config)
                .is_some_and(|own| own.spec.rollout.cordon);
            let closed = self.snapshot.nodes[name].unschedulable;
            assert!(closed || !cordon, "{name} is changed and open to new pods");
            let (down, most) = (self.down(&config), self.most(&config));
            assert!(down <= most, "{down} nodes of at most {most} are down");
        }
    }

    /// Pods keep what they run under.
    fn check_loss(&self, name: &str, before: &KataNodeSpec, after: &KataNodeSpec) {
        let all = after.action == Action::Uninstall && before.action != Action::Uninstall;
        for handler in &before.handlers {
            let kept = after.handlers.iter().any(|own| own.name == handler.name);
            if (kept && !all) || after.force {
                continue;
            }
            let pods = self.snapshot.pods.get(name).into_iter().flatten();
            let lost = pods.filter(|pod| pod.class == handler.name).count();
            assert_eq!(
                lost, 0,
                "{name} loses `{}` under running pods",
                handler.name
            );
            let label = runtime_label(&handler.name);
            let offered = self.snapshot.nodes[name].labels.contains_key(&label);
            assert!(
                !offered,
                "{name} loses `{}` while it is offered",
                handler.name
            );
        }
    }

    fn delete_kata_node(&mut self, name: &str) {
        let gone = self.snapshot.kata_nodes.remove(name).unwrap();
        let Some(node) = self.snapshot.nodes.get(name) else {
            return;
        };
        let same = node.machine_id == gone.spec.machine_id;
        let holds = self.machines[name].installed.is_some();
        assert!(!(same && holds), "{name} is forgotten");
    }

    /// Whether a node has an order it has not answered.
    fn outstanding(&self, name: &str) -> bool {
        let Some(kata_node) = self.snapshot.kata_nodes.get(name) else {
            return false;
        };
        let status = kata_node.status.clone().unwrap_or_default();
        // Nothing goes on on a machine that took another's place.
        let node = self.snapshot.nodes.get(name);
        let replaced = node.is_none_or(|node| node.machine_id != kata_node.spec.machine_id);
        let answered = status.observed_generation == kata_node.metadata.generation
            && !matches!(
                status.phase,
                NodePhase::Installing | NodePhase::Uninstalling
            );
        kata_node.spec.action != Action::None && !answered && !replaced
    }

    fn down(&self, config: &str) -> usize {
        let members = self.snapshot.kata_nodes.iter();
        let members = members.filter(|(_, node)| node.spec.kata_config == config);
        members
            .filter_map(|(name, _)| Some((name, self.snapshot.nodes.get(name)?)))
            .filter(|(name, node)| {
                let long = node.ready_changed.unwrap() + ORPHANED_AFTER <= self.snapshot.now;
                (!node.ready && !long) || (node.ready && self.outstanding(name))
            })
            .count()
    }

    /// Whether the label moves a node.
    fn has_pool(&self) -> bool {
        let views = self.snapshot.machine_configs.as_ref();
        views.is_some_and(|views| views.pools.contains_key(crate::machine::POOL))
    }

    pub(super) fn most(&self, config: &str) -> usize {
        match self
            .snapshot
            .configs
            .get(config)
            .map(|c| &c.spec.rollout.max_unavailable)
        {
            Some(IntOrString::Int(count)) => usize::try_from(*count).unwrap(),
            Some(IntOrString::String(_)) => panic!("worlds use numbers"),
            None => 1,
        }
    }

    fn misfortune(&mut self, name: &str) {
        let faults = self.faults;
        let machine = self.machines.get_mut(name).unwrap();
        let node = self.snapshot.nodes.get_mut(name).unwrap();
        if self.dice.permille(faults.crash) {
            // The work is lost half way: nothing may be taken for done.
            machine.work = None;
            self.set_reachable(name, false);
        } else if !machine.reachable && self.dice.permille(self.machines_return) {
            self.set_reachable(name, true);
        } else if self.dice.permille(faults.replace) {
            self.serial += 1;
            node.machine_id = format!("machine-{}", self.serial);
            node.handlers = Some(vec![String::new()]);
            if self.mco.is_some() {
                // Another Node under the same name: nothing of the old one stays.
                node.labels.retain(|label, _| {
                    label != MEMBER_LABEL && !label.starts_with(RUNTIME_LABEL_PREFIX)
                });
                (node.machine, node.withdrawn_since) = (None, None);
                self.rollouts.remove(name);
            }
            *machine = Machine {
                reachable: machine.reachable,
                capable: true,
                ..Machine::default()
            };
            self.snapshot.pods.remove(name);
        }
    }

    pub(super) fn set_reachable(&mut self, name: &str, reachable: bool) {
        let node = self.snapshot.nodes.get_mut(name).unwrap();
        self.machines.get_mut(name).unwrap().reachable = reachable;
        if node.ready != reachable {
            node.ready = reachable;
            node.ready_changed = Some(self.snapshot.now);
        }
    }

    pub(super) fn remove_node(&mut self, name: &str) {
        self.snapshot.nodes.remove(name);
        self.machines.remove(name);
        self.snapshot.pods.remove(name);
    }

    /// An agent's turn.
    fn work(&mut self, name: &str) {
        let machine = self.machines.get_mut(name).unwrap();
        let node = self.snapshot.nodes.get_mut(name).unwrap();
        let Some(kata_node) = self.snapshot.kata_nodes.get_mut(name) else {
            return;
        };
        let meant = kata_node.spec.machine_id == node.machine_id;
        if !machine.reachable || machine.mute || !meant {
            return;
        }
        let generation = kata_node.metadata.generation;
        let mut status = kata_node.status.clone().unwrap_or_default();
        let answered = status.observed_generation == generation && machine.work.is_none();
        let half = matches!(
            status.phase,
            NodePhase::Installing | NodePhase::Uninstalling
        );
        let current = machine
            .work
            .as_ref()
            .is_some_and(|work| work.generation == generation);
        if answered && !half && !machine.lies {
            return;
        }
        status.machine_id.clone_from(&node.machine_id);
        status.observed_generation = generation;
        if !current {
            let fails = self.dice.permille(self.faults.fail);
            let ticks = 1 + self.dice.below(4) * self.dice.below(4);
            machine.lies = self.dice.permille(self.faults.lie);
            let order = kata_node.spec.clone();
            machine.work = Some(Work {
                generation,
                order,
                ticks,
                fails,
            });
        }
        let work = machine.work.as_mut().unwrap();
        work.ticks = work.ticks.saturating_sub(1);
        let done = work.ticks == 0;
        let phase = match (work.order.action, done, work.fails) {
            (Action::None, ..) => NodePhase::Idle,
            (Action::Install, true, false) => NodePhase::Ready,
            (Action::Uninstall, true, false) => NodePhase::Removed,
            (_, true, true) => NodePhase::Failed,
            (Action::Install, false, _) => NodePhase::Installing,
            (Action::Uninstall, false, _) => NodePhase::Uninstalling,
        };
        if status.phase != phase {
            status.since = Some(Time(self.snapshot.now));
        }
        status.phase = phase;
        status.preflight = vec![Preflight {
            check: "virtualization".into(),
            passed: machine.capable,
            message: None,
        }];
        match phase {
            // A liar says so without having done it; the kubelet knows better.
            NodePhase::Ready => {
                status.version.clone_from(&work.order.version);
                let names = work
                    .order
                    .handlers
                    .iter()
                    .map(|handler| handler.name.clone());
                status.handlers = names.collect();
                if !machine.lies {
                    machine.installed.clone_from(&work.order.version);
                    machine.handlers.clone_from(&status.handlers);
                }
            }
            NodePhase::Removed => {
                let pods = self.snapshot.pods.get(name).map_or(0, Vec::len);
                assert!(
                    pods == 0 || work.order.force,
                    "{name} is dismantled under {pods} pods"
                );
                self.snapshot.pods.remove(name);
                machine.lies = false;
                machine.installed = None;
                machine.handlers.clear();
                status.version = None;
                status.handlers.clear();
            }
            _ => {}
        }
        if phase == NodePhase::Failed {
            status.last_error = Some("the disk is full".into());
        }
        if done || phase == NodePhase::Idle {
            machine.work = None;
        }
        let served = machine.handlers.iter().cloned();
        node.handlers = Some(std::iter::once(String::new()).chain(served).collect());
        kata_node.status = Some(status);
    }

    pub(super) fn labelled(&self, label: &str) -> usize {
        self.snapshot
            .nodes
            .values()
            .filter(|node| node.labels.contains_key(label))
            .count()
    }
}

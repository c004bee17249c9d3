//! OpenShift's Machine Config Operator in memory: slow, degrading, paused,
//! dead for a while, and busy with other people's rollouts.

use bulkhead_kataconfig::*;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::world::World;
use crate::machine::{CONFIG, POOL};
use crate::{
    Change, MachineConfigView, MachineConfigs, MachineView, ORPHANED_AFTER, PoolSpec, PoolView,
    STALLED_AFTER, Step,
};

pub(super) const EXTENSION: &str = "sandboxed-containers";
const MASTER_LABEL: &str = "node-role.kubernetes.io/master";

/// How badly it does.
#[derive(Clone, Copy, Default)]
pub(super) struct Mco {
    /// Number of the system's release: what other rollouts change.
    pub(super) release: u32,
    /// Of a thousand rollouts of a node, how many fail.
    pub(super) degrade: usize,
    /// Of a thousand ticks, in how many it dies for a while, or somebody
    /// else begins a rollout.
    pub(super) die: usize,
    pub(super) foreign: usize,
    dead: usize,
}

fn pool(managed: bool, spec: PoolSpec) -> PoolView {
    PoolView {
        managed,
        spec,
        ..PoolView::default()
    }
}

impl World {
    /// Gives the cluster an MCO, with its two pools.
    pub(super) fn with_mco(mut self) -> Self {
        let pools = ["master", "worker"].map(|name| (name.to_owned(), PoolView::default()));
        self.snapshot.machine_configs = Some(MachineConfigs {
            extension: EXTENSION.into(),
            pools: pools.into(),
            ..MachineConfigs::default()
        });
        self.mco = Some(Mco::default());
        self.mco_turn();
        self
    }

    /// Makes every node a control-plane node as well.
    pub(super) fn converge(&mut self) {
        for node in self.snapshot.nodes.values_mut() {
            node.labels.insert(MASTER_LABEL.into(), String::new());
            node.machine = None;
        }
        self.mco_turn();
    }

    pub(super) fn machine_configs(&mut self) -> &mut MachineConfigs {
        self.snapshot.machine_configs.as_mut().unwrap()
    }

    pub(super) fn pool_of(&self, name: &str) -> &'static str {
        let labels = &self.snapshot.nodes[name].labels;
        let pools = &self.snapshot.machine_configs.as_ref().unwrap().pools;
        match () {
            () if labels.contains_key(MASTER_LABEL) => "master",
            () if labels.contains_key(MEMBER_LABEL) && pools.contains_key(POOL) => POOL,
            () => "worker",
        }
    }

    /// Whether a rendered config has the extension.
    pub(super) fn extends(&self, rendered: &str) -> bool {
        let views = self.snapshot.machine_configs.as_ref().unwrap();
        !views.configs[rendered].extensions.is_empty()
    }

    /// The MCO's turn, and that of its daemons.
    pub(super) fn mco_turn(&mut self) {
        let Some(mut mco) = self.mco else {
            return;
        };
        mco.release += u32::from(self.dice.permille(mco.foreign));
        if mco.dead == 0 && self.dice.permille(mco.die) {
            mco.dead = self.dice.below(20);
        }
        self.mco = Some(Mco {
            dead: mco.dead.saturating_sub(1),
            ..mco
        });
        if mco.dead == 0 {
            for pool in ["master", "worker", POOL] {
                self.roll(pool, mco);
            }
        }
        let names: Vec<_> = self.snapshot.nodes.keys().cloned().collect();
        for name in names {
            self.daemon(&name, mco);
        }
    }

    /// Renders a pool and gives its config to as many nodes as may be down.
    fn roll(&mut self, pool: &str, mco: Mco) {
        let nodes: Vec<_> = self.snapshot.nodes.keys().cloned().collect();
        let views = self.snapshot.machine_configs.as_mut().unwrap();
        let own = views.configs.get(CONFIG);
        let own = own.filter(|own| own.role == pool).cloned();
        let Some(view) = views.pools.get_mut(pool) else {
            return;
        };
        let base = format!("00-{pool}");
        let sources = std::iter::once(base).chain(own.iter().map(|_| CONFIG.to_owned()));
        view.sources = sources.collect();
        let with = if own.is_some() { "kata" } else { "plain" };
        let target = format!("rendered-{pool}-{}-{with}", mco.release);
        let most = match view.spec.max_unavailable {
            Some(IntOrString::Int(count)) => usize::try_from(count).unwrap(),
            _ => 1,
        };
        let paused = view.paused;
        let extensions = own.map(|own| own.extensions).unwrap_or_default();
        views.configs.insert(
            target.clone(),
            MachineConfigView {
                pool: Some(pool.to_owned()),
                extensions,
                ..MachineConfigView::default()
            },
        );
        let members: Vec<_> = nodes.iter().filter(|n| self.pool_of(n) == pool).collect();
        let mut down = 0;
        for name in &members {
            let node = self.snapshot.nodes.get_mut(*name).unwrap();
            if node.machine.is_none() {
                node.machine = Some(MachineView {
                    current: target.clone(),
                    desired: target.clone(),
                    state: "Done".into(),
                    reason: String::new(),
                });
                self.booted(name);
            }
            let node = &self.snapshot.nodes[*name];
            let machine = node.machine.as_ref().unwrap();
            let settled = machine.state == "Done" && machine.current == machine.desired;
            down += usize::from(!settled || !node.ready);
        }
        for name in members {
            let node = self.snapshot.nodes.get_mut(name).unwrap();
            let machine = node.machine.as_mut().unwrap();
            let settled = machine.state == "Done" && machine.current == machine.desired;
            let free = settled && node.ready && down < most;
            if paused || machine.desired == target || !(free || machine.state == "Degraded") {
                continue;
            }
            if self.dice.permille(700) {
                machine.desired.clone_from(&target);
                down += usize::from(free);
            }
        }
    }

    /// One node's daemon: drains, reboots, and is done or degraded.
    fn daemon(&mut self, name: &str, mco: Mco) {
        let alive = self.machines[name].reachable;
        let node = self.snapshot.nodes.get_mut(name).unwrap();
        let Some(machine) = node.machine.as_mut().filter(|_| alive) else {
            return;
        };
        if machine.current == machine.desired {
            machine.state = "Done".into();
            machine.reason.clear();
            return;
        }
        let work = self.rollouts.entry(name.to_owned()).or_default();
        if machine.state != "Working" {
            let retries = machine.state == "Done" || work.0 != machine.desired;
            if retries || self.dice.permille(if mco.degrade == 0 { 500 } else { 50 }) {
                machine.state = "Working".into();
                *work = (machine.desired.clone(), 2 + self.dice.below(8));
            }
            return;
        }
        work.1 -= 1;
        if work.1 > 0 {
            // Drained, then rebooted.
            self.snapshot.pods.remove(name);
            if work.1 == 1 && node.ready {
                node.ready = false;
                node.ready_changed = Some(self.snapshot.now);
            }
            return;
        }
        node.ready = true;
        node.ready_changed = Some(self.snapshot.now);
        if self.dice.permille(mco.degrade) {
            machine.state = "Degraded".into();
            machine.reason = "the disk is full".into();
            return;
        }
        machine.current.clone_from(&machine.desired);
        machine.state = "Done".into();
        machine.reason.clear();
        self.booted(name);
    }

    /// A node's system is that of its config.
    fn booted(&mut self, name: &str) {
        let reachable = self.machines[name].reachable;
        self.set_reachable(name, reachable);
        if self.snapshot.kata_nodes.contains_key(name) {
            return;
        }
        let rendered = self.snapshot.nodes[name].machine.clone().unwrap().current;
        let there = self.extends(&rendered);
        let node = self.snapshot.nodes.get_mut(name).unwrap();
        let handlers = there.then(|| "kata".to_owned());
        let state = self.machines.get_mut(name).unwrap();
        state.installed = handlers.as_ref().map(|_| "the system's".into());
        state.handlers = handlers.iter().cloned().collect();
        node.handlers = Some(std::iter::once(String::new()).chain(handlers).collect());
    }

    /// A change of the MCO's objects; false when it is none.
    pub(super) fn apply_mco(&mut self, change: &Change) -> bool {
        match change {
            Change::ApplyMachineConfig { name, config } => {
                self.assert_finalizer();
                let views = self.machine_configs();
                views.configs.insert(name.clone(), config.clone());
            }
            Change::DeleteMachineConfig { name } => {
                self.machine_configs().configs.remove(name).unwrap();
            }
            Change::ApplyPool { name, pool: spec } => {
                self.assert_finalizer();
                let made = self.machine_configs().configs.contains_key(CONFIG);
                assert!(made, "its nodes would be rebooted twice");
                let new = !self.machine_configs().pools.contains_key(POOL);
                assert!(
                    !new || self.labelled(MEMBER_LABEL) == 0,
                    "nodes are taken all at once"
                );
                let views = self.machine_configs();
                let old = views.pools.remove(name);
                let fresh = pool(true, spec.clone());
                let kept = old.map(|old| PoolView {
                    spec: spec.clone(),
                    ..old
                });
                views.pools.insert(name.clone(), kept.unwrap_or(fresh));
            }
            Change::DeletePool { name } => {
                assert_eq!(self.labelled(MEMBER_LABEL), 0, "the pool has nodes");
                for (node, view) in &self.snapshot.nodes {
                    let machine = view.machine.clone().unwrap_or_default();
                    let needs = |config: &str| config.starts_with("rendered-kata-oc-");
                    let needed = needs(&machine.current) || needs(&machine.desired);
                    assert!(!needed, "{node} loses the config it has");
                }
                let views = self.machine_configs();
                views.pools.remove(name).unwrap();
                views
                    .configs
                    .retain(|_, config| config.pool.as_deref() != Some(POOL));
            }
            _ => return false,
        }
        true
    }

    fn assert_finalizer(&self) {
        let mut configs = self.snapshot.configs.values();
        assert!(configs.any(|config| config.metadata.finalizers.is_some()));
    }

    /// Whether a node of ours is on its way, or down.
    pub(super) fn out(&self, name: &str) -> bool {
        let node = &self.snapshot.nodes[name];
        let Some(machine) = &node.machine else {
            return node.labels.contains_key(MEMBER_LABEL);
        };
        let told = node.labels.contains_key(MEMBER_LABEL);
        let (now, next) = (
            self.extends(&machine.current),
            self.extends(&machine.desired),
        );
        let moves = told != now || told != next;
        // A machine that is being rebooted is waited for longer.
        let after = if moves { STALLED_AFTER } else { ORPHANED_AFTER };
        let long = node.ready_changed.unwrap() + after <= self.snapshot.now;
        let lost = !node.ready && long;
        (told || now || next) && !lost && (!node.ready || moves)
    }

    /// Before a member's label changes: pods keep their node.
    pub(super) fn check_leave(&self, name: &str, config: &KataConfigSpec) {
        let pods = self.snapshot.pods.get(name).map_or(0, Vec::len);
        assert!(
            pods == 0 || config.uninstall.force,
            "{name} is taken from {pods} pods"
        );
        let offered = self.snapshot.nodes[name]
            .labels
            .contains_key(&runtime_label("kata"));
        assert!(!offered, "{name} leaves while it is offered");
    }

    /// After a member's label changed: no more nodes out than may be.
    pub(super) fn check_out(&self, name: &str, was_out: bool) {
        if was_out || !self.out(name) {
            return;
        }
        let down = self
            .snapshot
            .nodes
            .keys()
            .filter(|name| self.out(name))
            .count();
        let most = self.most("kata");
        assert!(down <= most, "{down} nodes of at most {most} are down");
    }

    /// What is said of nodes is so, and no rollout of others is ours.
    pub(super) fn check_words(&self, steps: &[Step]) {
        for (name, config) in &self.snapshot.configs {
            let new = steps.iter().find_map(|step| match &step.change {
                Change::SetStatus { config, status } if config == name => Some(&**status),
                _ => None,
            });
            let Some(status) = new.or(config.status.as_ref()) else {
                continue;
            };
            // A status that is not written before the end is about before.
            let deleted = config.metadata.deletion_timestamp.is_some();
            if new.is_none() && deleted {
                continue;
            }
            if self.snapshot.kata_nodes.is_empty() {
                self.check_lists(&status.kata_nodes);
            }
        }
    }

    fn check_lists(&self, lists: &KataNodes) {
        let stands = |name: &String| {
            let node = &self.snapshot.nodes[name];
            let machine = node.machine.clone().unwrap_or_default();
            let extends = |config: &str| !config.is_empty() && self.extends(config);
            let (now, next) = (extends(&machine.current), extends(&machine.desired));
            let serves = self.machines[name].installed.is_some();
            (now, next, serves, machine.state == "Degraded")
        };
        for name in &lists.installed {
            let (now, _, serves, _) = stands(name);
            assert!(now && serves, "{name} is not installed");
        }
        for name in &lists.installing {
            let (now, next, serves, _) = stands(name);
            assert!(!(now && next && serves), "{name} is in another's rollout");
        }
        for name in &lists.failed_to_install {
            let (now, next, _, degraded) = stands(name);
            assert!(!now && next && degraded, "{name} did not fail for us");
        }
        for name in lists.uninstalling.iter().chain(&lists.failed_to_uninstall) {
            let (now, next, ..) = stands(name);
            assert!(now || next, "{name} is clean");
        }
    }
}

//! Where each node stands.

use std::collections::BTreeMap;
use std::time::Duration;

use bulkhead_kataconfig::{
    Action, DEFAULT_HANDLER, KataNode, KataNodeSpec, KataNodeStatus, NodeInstall, NodePhase,
    WITHDRAWN_ANNOTATION, runtime_label,
};
use jiff::Timestamp;

use crate::machine::{Machines, Seat};
use crate::snapshot::{NodeView, PodView, Snapshot};
use crate::want::{Owners, Want};
use crate::{ORPHANED_AFTER, STALLED_AFTER};

/// First pause before a failed try is made again; it doubles five times.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Where a node stands. The names follow the lists of a `KataConfig`'s status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// Serves what is wanted.
    Installed,
    /// Told to install, and has not answered.
    Installing,
    /// Could be started.
    WaitingToInstall,
    /// Its last try failed.
    FailedToInstall,
    /// Told to clean up, and has not answered.
    Uninstalling,
    /// Has to be left.
    WaitingToUninstall,
    /// Its last try to clean up failed.
    FailedToUninstall,
    /// Cannot run virtual machines.
    Ineligible,
    /// Nothing there; its objects can go.
    Clean,
}

/// A node the operator has to do with.
#[derive(Debug)]
pub(crate) struct Standing<'a> {
    pub(crate) name: &'a str,
    pub(crate) node: &'a NodeView,
    pub(crate) kata_node: Option<&'a KataNode>,
    /// The `KataConfig` that wants it; none when it has to be left.
    pub(crate) owner: Option<usize>,
    /// The `KataConfig` whose budget it counts in.
    pub(crate) budget: String,
    pub(crate) state: State,
    /// Between an order and its answer: disturbed, perhaps.
    pub(crate) in_flight: bool,
    pub(crate) orphaned: bool,
    /// What to tell the node, once its turn comes.
    pub(crate) order: Option<KataNodeSpec>,
    /// Live pods that need what the order takes away.
    pub(crate) pods: Vec<&'a PodView>,
    /// When the order may be given at the earliest.
    pub(crate) due: Option<Timestamp>,
    /// The machine behind the name is another one than the object means.
    pub(crate) replaced: bool,
    /// What it is to the Machine Config Operator, if that installs it.
    pub(crate) seat: Option<Seat>,
}

impl Standing<'_> {
    /// Whether the node was ever told to install.
    pub(crate) fn touched(&self) -> bool {
        let by_agent = self
            .kata_node
            .is_some_and(|node| node.spec.version.is_some());
        by_agent || self.seat.as_ref().is_some_and(|seat| seat.touched)
    }

    /// Why its last try failed.
    pub(crate) fn error(&self) -> Option<&str> {
        let agent = || self.told()?.last_error.as_deref();
        let seat = self.seat.as_ref();
        seat.and_then(|seat| seat.error.as_deref()).or_else(agent)
    }

    /// What its agent told of this machine, of whatever order.
    pub(crate) fn told(&self) -> Option<&KataNodeStatus> {
        let status = self.kata_node?.status.as_ref()?;
        (status.machine_id == self.node.machine_id).then_some(status)
    }

    /// What its agent told of the present order.
    fn report(&self) -> Option<&KataNodeStatus> {
        let status = self.told()?;
        let generation = self.kata_node?.metadata.generation;
        (status.observed_generation == generation).then_some(status)
    }

    /// Whether the node serves a handler, as far as agent and kubelet tell.
    pub(crate) fn serves(&self, handler: &str) -> bool {
        let agent = self.told().is_some_and(|status| {
            status.version.is_some() && status.handlers.iter().any(|own| own == handler)
        });
        let kubelet = self.node.handlers.as_ref();
        let system = self.seat.as_ref().is_some_and(|seat| seat.there);
        (agent || (system && handler == DEFAULT_HANDLER))
            && kubelet.is_none_or(|handlers| handlers.iter().any(|own| own == handler))
    }

    /// Whether the order the node has was carried out, with proof.
    fn carried_out(&self, spec: &KataNodeSpec) -> bool {
        let ready = self.report().is_some_and(|status| {
            status.phase == NodePhase::Ready && status.version == spec.version
        });
        ready
            && spec
                .handlers
                .iter()
                .all(|handler| self.serves(&handler.name))
    }

    /// Since when it accepts no new pods.
    pub(crate) fn withdrawn_since(&self) -> Option<Timestamp> {
        if self.seat.is_some() {
            return self.node.withdrawn_since;
        }
        let annotations = self.kata_node?.metadata.annotations.as_ref()?;
        annotations.get(WITHDRAWN_ANNOTATION)?.parse().ok()
    }

    /// When an order that is not answered counts as failed.
    pub(crate) fn stalls_at(&self) -> Option<Timestamp> {
        if let Some(seat) = &self.seat {
            return seat.stalls;
        }
        let ordered = self.kata_node?.spec.ordered_at.as_ref()?.0;
        let at = ordered
            .saturating_add(STALLED_AFTER)
            .unwrap_or(Timestamp::MAX);
        self.in_flight.then_some(at)
    }

    /// Whether its order was not answered for too long.
    pub(crate) fn stalled(&self, now: Timestamp) -> bool {
        !self.orphaned && self.stalls_at().is_some_and(|at| at <= now)
    }

    /// Whether it may change its state on its own, so that budgets count it.
    pub(crate) fn unavailable(&self) -> bool {
        !self.orphaned && (self.in_flight || !self.node.ready)
    }
}

/// When a node that is not ready counts as unreachable: after a longer time
/// when its machine is being started again.
pub(crate) fn orphaned_at(node: &NodeView, restarts: bool) -> Option<Timestamp> {
    let after = match restarts {
        true => STALLED_AFTER,
        false => ORPHANED_AFTER,
    };
    // A node without a time never was ready: it counts from the beginning.
    let since = node.ready_changed.unwrap_or(Timestamp::MIN);
    (!node.ready).then(|| since.saturating_add(after).unwrap_or(Timestamp::MAX))
}

/// Where every node stands that some `KataConfig` wants or that has an object.
pub(crate) fn standings<'a>(
    snapshot: &'a Snapshot,
    wants: &[Want<'_>],
    owners: &Owners<'a>,
    machines: Option<&Machines<'_>>,
) -> Vec<Standing<'a>> {
    let stand = |(name, node): (&'a String, &'a NodeView)| {
        let kata_node = snapshot.kata_nodes.get(name);
        let owner = held_by(wants, kata_node).or(owners.of.get(name.as_str()).copied());
        let by_machine_config = |owner: usize| wants[owner].by_machine_config;
        // One way of installation has to be left before another is taken.
        if kata_node.is_some() {
            let owner = owner.filter(|owner| !by_machine_config(*owner));
            return Some(stand(snapshot, wants, name, node, kata_node, owner));
        }
        let seated = machines
            .filter(|machines| machines.touches(node) || owner.is_some_and(by_machine_config));
        if let Some(machines) = seated {
            let owner = owner.filter(|owner| by_machine_config(*owner));
            return Some(machines.stand(snapshot, wants, name, node, owner));
        }
        owner.map(|owner| stand(snapshot, wants, name, node, None, Some(owner)))
    };
    snapshot.nodes.iter().filter_map(stand).collect()
}

/// The `KataConfig` that cannot be acted on and whose node this is: whatever
/// it now selects, nothing is taken from it.
fn held_by(wants: &[Want<'_>], kata_node: Option<&KataNode>) -> Option<usize> {
    let name = &kata_node?.spec.kata_config;
    let held = |want: &Want<'_>| want.name == name && !want.deleting && want.obstacle.is_some();
    wants.iter().position(held)
}

fn stand<'a>(
    snapshot: &'a Snapshot,
    wants: &[Want<'_>],
    name: &'a str,
    node: &'a NodeView,
    kata_node: Option<&'a KataNode>,
    owner: Option<usize>,
) -> Standing<'a> {
    let owned_name = owner.map(|index| wants[index].name.to_owned());
    let told_name = kata_node.map(|kata_node| kata_node.spec.kata_config.clone());
    let replaced = kata_node.is_some_and(|kata_node| {
        let owned = kata_node.metadata.owner_references.iter().flatten();
        let mut others = owned.filter(|owner| owner.kind == "Node" && owner.uid != node.uid);
        let other_machine = !node.machine_id.is_empty()
            && !kata_node.spec.machine_id.is_empty()
            && kata_node.spec.machine_id != node.machine_id;
        other_machine || others.next().is_some()
    });
    let mut standing = Standing {
        name,
        node,
        kata_node,
        owner,
        budget: owned_name.or(told_name).unwrap_or_default(),
        state: State::Clean,
        in_flight: false,
        orphaned: orphaned_at(node, false).is_some_and(|at| at <= snapshot.now),
        order: None,
        pods: Vec::new(),
        due: None,
        replaced,
        seat: None,
    };
    if standing.replaced {
        standing.state = if owner.is_some() {
            State::WaitingToInstall
        } else {
            State::Clean
        };
        return standing;
    }
    match owner {
        Some(index) => wanted(&mut standing, snapshot, &wants[index]),
        None => unwanted(&mut standing, snapshot, wants),
    }
    standing
}

/// A node some `KataConfig` asks for.
fn wanted<'a>(standing: &mut Standing<'a>, snapshot: &'a Snapshot, want: &Want<'_>) {
    let Some(kata_node) = standing.kata_node else {
        standing.state = State::WaitingToInstall;
        return;
    };
    let has = &kata_node.spec;
    let order = if want.obstacle.is_some() {
        has.clone()
    } else {
        installation(standing, snapshot, want)
    };
    let failed = standing
        .report()
        .is_some_and(|r| r.phase == NodePhase::Failed);
    let removed = standing
        .report()
        .is_some_and(|r| r.phase == NodePhase::Removed);
    match has.action {
        Action::None if has.version.is_none() => {
            let report = standing.report();
            let able = report.is_some_and(|r| r.preflight.iter().all(|check| check.passed));
            standing.state = match (report.is_some(), able) {
                (true, false) => State::Ineligible,
                _ => State::WaitingToInstall,
            };
            standing.order = (able && want.obstacle.is_none()).then_some(order);
        }
        Action::None => {
            standing.state = State::WaitingToInstall;
            standing.order = (want.obstacle.is_none()).then_some(order);
        }
        Action::Uninstall if !failed && !removed => {
            standing.state = State::Uninstalling;
            standing.in_flight = true;
        }
        Action::Uninstall => {
            standing.state = State::WaitingToInstall;
            standing.order = (want.obstacle.is_none()).then_some(order);
        }
        Action::Install => {
            standing.in_flight = !failed && !standing.carried_out(has);
            let same = same_order(has, &order);
            standing.state = match (same, standing.in_flight) {
                (_, true) => State::Installing,
                (true, false) if failed => State::FailedToInstall,
                (true, false) => State::Installed,
                (false, false) => State::WaitingToInstall,
            };
            standing.due = (same && failed)
                .then(|| retry_at(standing, snapshot.now))
                .flatten();
            let again = KataNodeSpec {
                attempt: has.attempt.saturating_add(1),
                ..order.clone()
            };
            standing.order = match (same, standing.state) {
                (false, _) => Some(order),
                (true, State::FailedToInstall) if want.obstacle.is_none() => Some(again),
                _ => None,
            };
        }
    }
}

/// A node nobody asks for any more.
fn unwanted<'a>(standing: &mut Standing<'a>, snapshot: &'a Snapshot, wants: &[Want<'_>]) {
    let Some(kata_node) = standing.kata_node else {
        return;
    };
    let has = &kata_node.spec;
    if has.version.is_none() {
        return;
    }
    let order = KataNodeSpec {
        action: Action::Uninstall,
        force: false,
        attempt: 0,
        ..has.clone()
    };
    let report = standing.report().map(|report| report.phase);
    standing.pods = using(
        snapshot,
        standing.name,
        has.handlers.iter().map(|h| h.name.as_str()),
    );
    let want = wants.iter().find(|want| want.name == has.kata_config);
    let over = force_at(standing, want);
    match (has.action, report) {
        (Action::Uninstall, Some(NodePhase::Removed)) => standing.pods.clear(),
        (Action::Uninstall, Some(NodePhase::Failed)) => {
            standing.state = State::FailedToUninstall;
            standing.due = retry_at(standing, snapshot.now);
            let attempt = has.attempt.saturating_add(1);
            standing.order = Some(KataNodeSpec {
                attempt,
                force: has.force,
                ..order
            });
        }
        (Action::Uninstall, _) => {
            standing.state = State::Uninstalling;
            standing.in_flight = true;
        }
        (action, _) => {
            standing.state = State::WaitingToUninstall;
            standing.in_flight = action == Action::Install
                && report != Some(NodePhase::Failed)
                && !standing.carried_out(has);
            standing.order = Some(order);
        }
    }
    if standing.state != State::Uninstalling {
        wait_for_pods(standing, over);
    }
}

/// Running pods keep a node, until `over`.
pub(crate) fn wait_for_pods(standing: &mut Standing<'_>, over: Option<Timestamp>) {
    if standing.pods.is_empty() {
        return;
    }
    // Only when the grace is over; without force, never.
    match over {
        Some(at) => {
            standing.due = standing.due.max(Some(at));
            if let Some(order) = &mut standing.order {
                order.force = true;
            }
        }
        None => standing.order = None,
    }
}

/// When running pods are no reason to wait any more.
pub(crate) fn force_at(standing: &Standing<'_>, want: Option<&Want<'_>>) -> Option<Timestamp> {
    let since = standing.withdrawn_since()?;
    since.checked_add(want?.grace()?).ok()
}

/// When a failed try may be made again. A node's clock may be wrong: a time to
/// come counts as now.
fn retry_at(standing: &Standing<'_>, now: Timestamp) -> Option<Timestamp> {
    let since = standing.told()?.since.as_ref()?.0.min(now);
    let doubled = standing.kata_node?.spec.attempt.min(5);
    since.checked_add(RETRY_AFTER * 2_u32.pow(doubled)).ok()
}

/// Live pods of a node that run under one of some handlers.
pub(crate) fn using<'a, 'h>(
    snapshot: &'a Snapshot,
    node: &str,
    handlers: impl Iterator<Item = &'h str>,
) -> Vec<&'a PodView> {
    let handlers: Vec<_> = handlers.collect();
    let pods = snapshot.pods.get(node).into_iter().flatten();
    pods.filter(|pod| {
        // A class that is gone was called after its handler.
        let class = snapshot.classes.get(&pod.class);
        let handler = class.map_or(pod.class.as_str(), |class| class.handler.as_str());
        handlers.contains(&handler)
    })
    .collect()
}

/// What a wanted node is to be told. A handler that is given up stays as long
/// as the node accepts pods for it or runs them.
pub(crate) fn installation(
    standing: &Standing<'_>,
    snapshot: &Snapshot,
    want: &Want<'_>,
) -> KataNodeSpec {
    let spec = &want.config.spec;
    let mut handlers = want.handlers.clone();
    let had = standing
        .kata_node
        .map_or(&[][..], |node| node.spec.handlers.as_slice());
    for old in had {
        let given_up = handlers.iter().all(|handler| handler.name != old.name);
        let labelled = standing.node.labels.contains_key(&runtime_label(&old.name));
        let name = std::iter::once(old.name.as_str());
        if given_up && (labelled || !using(snapshot, standing.name, name).is_empty()) {
            handlers.push(old.clone());
        }
    }
    KataNodeSpec {
        kata_config: want.name.to_owned(),
        action: Action::Install,
        version: Some(want.version.clone()),
        handlers,
        log_level: Some(spec.log_level.clone()),
        preinstalled: spec.node_install == NodeInstall::Preinstalled,
        verification: spec.verification.clone(),
        machine_id: standing.node.machine_id.clone(),
        attempt: 0,
        ordered_at: None,
        force: false,
    }
}

/// Whether two orders differ in nothing but which try it is, and when.
fn same_order(has: &KataNodeSpec, order: &KataNodeSpec) -> bool {
    let (attempt, ordered_at) = (order.attempt, order.ordered_at.clone());
    *order
        == KataNodeSpec {
            attempt,
            ordered_at,
            ..has.clone()
        }
}

/// Standings by the budget they count in.
pub(crate) fn by_budget<'s, 'a>(
    standings: &'s [Standing<'a>],
) -> BTreeMap<&'s str, Vec<&'s Standing<'a>>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for standing in standings {
        found
            .entry(standing.budget.as_str())
            .or_default()
            .push(standing);
    }
    found
}

//! The steps of one run, in the order in which they have to be applied.

use bulkhead_kataconfig::{
    Action, CORDONED_ANNOTATION, FINALIZER, KataConfigStatus, KataNodeSpec, PlanAction,
    WITHDRAWN_ANNOTATION,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::classes::{Classes, classes};
use crate::labels::{Labels, labels, stale};
use crate::machine::{Machines, provide, retire, tell};
use crate::pace::{Pace, pace};
use crate::report::status;
use crate::snapshot::{ClassView, MachineConfigView, NodeView, PoolSpec, Snapshot};
use crate::standing::{Standing, State, standings};
use crate::want::{Want, owners, wants};

/// A change of one object.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Puts the finalizer on a `KataConfig`.
    AddFinalizer {
        /// Its name.
        config: String,
    },
    /// Takes the finalizer away.
    RemoveFinalizer {
        /// The `KataConfig`'s name.
        config: String,
    },
    /// Makes a `KataNode`, or gives it another spec.
    ApplyKataNode {
        /// Its name, which is the node's.
        name: String,
        /// The node's identity; the node owns the object.
        node_uid: String,
        /// The spec.
        spec: Box<KataNodeSpec>,
        /// Since when the node accepts no new pods.
        withdrawn_since: Option<Timestamp>,
    },
    /// Deletes a `KataNode`.
    DeleteKataNode {
        /// Its name.
        name: String,
    },
    /// Changes labels and annotations of a node; `None` takes one away.
    PatchNode {
        /// Its name.
        name: String,
        /// The labels that change.
        labels: Labels,
        /// The annotations that change.
        annotations: Labels,
        /// Whether the startup taint goes.
        lift_taint: bool,
        /// Whether it is closed to new pods; `None` leaves that as it is.
        unschedulable: Option<bool>,
    },
    /// Makes or corrects a RuntimeClass.
    ApplyClass {
        /// Its name.
        name: String,
        /// What it holds.
        class: ClassView,
    },
    /// Deletes a RuntimeClass.
    DeleteClass {
        /// Its name.
        name: String,
    },
    /// Makes or corrects a MachineConfig.
    ApplyMachineConfig {
        /// Its name.
        name: String,
        /// What it holds.
        config: MachineConfigView,
    },
    /// Deletes a MachineConfig.
    DeleteMachineConfig {
        /// Its name.
        name: String,
    },
    /// Makes or corrects a MachineConfigPool.
    ApplyPool {
        /// Its name.
        name: String,
        /// What it holds.
        pool: PoolSpec,
    },
    /// Deletes a MachineConfigPool.
    DeletePool {
        /// Its name.
        name: String,
    },
    /// Replaces the status of a `KataConfig`.
    SetStatus {
        /// Its name.
        config: String,
        /// The status.
        status: Box<KataConfigStatus>,
    },
}

/// What people are told about a change, as an Event on a `KataConfig`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The `KataConfig`.
    pub config: String,
    /// Whether something is wrong.
    pub warning: bool,
    /// For programs.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// A change, and what to tell once it is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The change.
    pub change: Change,
    /// What to tell.
    pub notices: Vec<Notice>,
}

impl From<Change> for Step {
    fn from(change: Change) -> Self {
        Self {
            change,
            notices: Vec::new(),
        }
    }
}

/// What a run decided.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// The steps, to be applied in this order; the first that fails ends it.
    pub steps: Vec<Step>,
    /// When to run again even if nothing changes.
    pub wake: Option<Timestamp>,
}

/// Decides what to do about a cluster.
#[must_use]
pub fn plan(snapshot: &Snapshot) -> Outcome {
    let wants = wants(snapshot);
    let owners = owners(snapshot, &wants);
    let machines = Machines::new(snapshot, &wants);
    let standings = standings(snapshot, &wants, &owners, machines.as_ref());
    let pace = pace(&standings, &wants, snapshot.now);
    let classes = classes(snapshot, &wants, &standings, &pace);

    let mut steps: Vec<Step> = Vec::new();
    add_finalizers(&mut steps, &wants);
    forget(&mut steps, snapshot);
    prepare(&mut steps, &wants, &standings, snapshot.now);
    relabel(&mut steps, snapshot, &wants, &standings);
    offer(&mut steps, classes);
    if let Some(machines) = &machines {
        provide(&mut steps, machines, snapshot, &wants, &pace);
    }
    cordon(&mut steps, snapshot, &wants, &standings, &pace);
    start(&mut steps, &standings, &pace, snapshot.now);
    let_go(&mut steps, &standings);
    if let Some(machines) = &machines {
        retire(&mut steps, machines, snapshot, &wants, &standings, &pace);
    }
    for (index, want) in wants.iter().enumerate() {
        let (status, notices) = status(index, &wants, &standings, &owners, &pace, snapshot);
        let done = finished(want, &standings);
        if !done && want.config.status.as_ref() != Some(&status) {
            let config = want.name.to_owned();
            let change = Change::SetStatus {
                config,
                status: Box::new(status),
            };
            steps.push(Step { change, notices });
        }
        if done {
            steps.push(removed(want, &standings));
        }
    }
    Outcome {
        steps,
        wake: pace.wake,
    }
}

fn has_finalizer(want: &Want<'_>) -> bool {
    let finalizers = want.config.metadata.finalizers.iter().flatten();
    finalizers
        .into_iter()
        .any(|finalizer| finalizer == FINALIZER)
}

/// Before anything is done on a node.
fn add_finalizers(steps: &mut Vec<Step>, wants: &[Want<'_>]) {
    let missing = wants
        .iter()
        .filter(|want| !want.deleting && !has_finalizer(want));
    steps.extend(missing.map(|want| {
        let config = want.name.to_owned();
        Step::from(Change::AddFinalizer { config })
    }));
}

/// Objects of nodes that are gone.
fn forget(steps: &mut Vec<Step>, snapshot: &Snapshot) {
    let gone = snapshot.kata_nodes.keys();
    let gone = gone
        .filter(|name| !snapshot.nodes.contains_key(*name))
        .cloned();
    steps.extend(gone.map(|name| Change::DeleteKataNode { name }.into()));
}

/// What disturbs no node: objects for nodes that have none, the mark of those
/// that are left, the hold of those that cannot be reached.
fn prepare(steps: &mut Vec<Step>, wants: &[Want<'_>], standings: &[Standing<'_>], now: Timestamp) {
    let by_agents = standings
        .iter()
        .filter(|standing| !standing.replaced && standing.seat.is_none());
    for standing in by_agents {
        let withdrawn = standing.withdrawn_since();
        let Some(kata_node) = standing.kata_node else {
            let want = standing.owner.map(|index| &wants[index]);
            if let Some(want) = want.filter(|want| want.obstacle.is_none()) {
                let spec = KataNodeSpec {
                    kata_config: want.name.to_owned(),
                    machine_id: standing.node.machine_id.clone(),
                    ..KataNodeSpec::default()
                };
                steps.push(apply(standing, spec, None).into());
            }
            continue;
        };
        // Nobody waits for its answer: when it comes back it must ask before
        // it goes on, because the others went on in the meantime.
        if standing.orphaned && standing.in_flight {
            let spec = KataNodeSpec {
                action: Action::None,
                ..kata_node.spec.clone()
            };
            steps.push(apply(standing, spec, withdrawn).into());
            continue;
        }
        let leaving = standing.owner.is_none() && standing.touched();
        let mark = match leaving {
            true => withdrawn.or(Some(now)),
            false => None,
        };
        if mark != withdrawn && standing.state != State::Clean {
            steps.push(apply(standing, kata_node.spec.clone(), mark).into());
        }
    }
}

fn apply(
    standing: &Standing<'_>,
    spec: KataNodeSpec,
    withdrawn_since: Option<Timestamp>,
) -> Change {
    Change::ApplyKataNode {
        name: standing.name.to_owned(),
        node_uid: standing.node.uid.clone(),
        spec: Box::new(spec),
        withdrawn_since,
    }
}

fn relabel(
    steps: &mut Vec<Step>,
    snapshot: &Snapshot,
    wants: &[Want<'_>],
    standings: &[Standing<'_>],
) {
    let mut known = standings.iter().peekable();
    for (name, node) in &snapshot.nodes {
        let standing = known.next_if(|standing| standing.name == name);
        let pools = snapshot.machine_configs.is_some();
        let labels =
            standing.map_or_else(|| stale(node), |standing| labels(standing, wants, pools));
        let annotations = mark(node, standing, snapshot.now);
        let serves = standing.is_some_and(|standing| standing.state == State::Installed);
        let lift_taint = serves && node.startup_taint;
        if !labels.is_empty() || !annotations.is_empty() || lift_taint {
            let name = name.clone();
            steps.push(
                Change::PatchNode {
                    name,
                    labels,
                    annotations,
                    lift_taint,
                    unschedulable: None,
                }
                .into(),
            );
        }
    }
}

/// Since when a node is left: on the node itself, where it has no KataNode.
fn mark(node: &NodeView, standing: Option<&Standing<'_>>, now: Timestamp) -> Labels {
    let leaves = standing.is_some_and(|standing| {
        standing.seat.is_some() && standing.state == State::WaitingToUninstall
    });
    let value = match (leaves, node.withdrawn_since) {
        (true, None) => Some(now.to_string()),
        (false, Some(_)) => None,
        _ => return Labels::new(),
    };
    Labels::from([(WITHDRAWN_ANNOTATION.to_owned(), value)])
}

fn offer(steps: &mut Vec<Step>, classes: Classes) {
    let apply = classes.apply.into_iter();
    steps.extend(apply.map(|(name, class)| Change::ApplyClass { name, class }.into()));
    let delete = classes.delete.into_iter();
    steps.extend(delete.map(|name| Change::DeleteClass { name }.into()));
}

/// Closes nodes to new pods before they are changed, where that is asked for,
/// and opens those the operator closed when nothing goes on there any more.
/// One that somebody else closed is left alone.
fn cordon(
    steps: &mut Vec<Step>,
    snapshot: &Snapshot,
    wants: &[Want<'_>],
    standings: &[Standing<'_>],
    pace: &Pace<'_>,
) {
    let asks = |standing: &Standing<'_>| {
        let want = wants.iter().find(|want| want.name == standing.budget);
        let asked = want.is_some_and(|want| want.config.spec.rollout.cordon);
        let goes_on = standing.in_flight || pace.starts.contains(standing.name);
        asked && goes_on && !standing.orphaned && standing.seat.is_none()
    };
    let mut known = standings.iter().peekable();
    for (name, node) in &snapshot.nodes {
        let standing = known.next_if(|standing| standing.name == name);
        let closed = standing.is_some_and(asks);
        let change = match (closed, node.cordoned) {
            (true, false) if !node.unschedulable => true,
            (false, true) => false,
            _ => continue,
        };
        let mark = change.then(|| "true".to_owned());
        steps.push(
            Change::PatchNode {
                name: name.clone(),
                labels: Labels::new(),
                annotations: Labels::from([(CORDONED_ANNOTATION.to_owned(), mark)]),
                lift_taint: false,
                unschedulable: Some(change),
            }
            .into(),
        );
    }
}

fn start(steps: &mut Vec<Step>, standings: &[Standing<'_>], pace: &Pace<'_>, now: Timestamp) {
    let starts = standings
        .iter()
        .filter(|standing| pace.starts.contains(standing.name));
    for standing in starts {
        let Some(order) = &standing.order else {
            continue;
        };
        let (reason, what) = match planned(standing) {
            PlanAction::Install => ("Installing", "installing"),
            PlanAction::Upgrade => ("Upgrading", "upgrading"),
            PlanAction::Uninstall => ("Uninstalling", "uninstalling"),
        };
        let again = if order.attempt > 0 { " again" } else { "" };
        let version = order.version.as_deref().filter(|own| !own.is_empty());
        let version = version.map_or_else(String::new, |version| format!("{version} "));
        let notice = Notice {
            config: standing.budget.clone(),
            warning: order.force,
            reason,
            message: match order.force {
                true => format!("{what} {version}on {} under running pods", standing.name),
                false => format!("{what} {version}on {}{again}", standing.name),
            },
        };
        let mark = standing
            .withdrawn_since()
            .filter(|_| order.action == Action::Uninstall);
        if let Some(seat) = &standing.seat {
            let told = tell(standing, seat).into_iter();
            steps.extend(told.map(|change| Step {
                change,
                notices: vec![notice.clone()],
            }));
            continue;
        }
        let ordered = KataNodeSpec {
            ordered_at: Some(Time(now)),
            ..order.clone()
        };
        steps.push(Step {
            change: apply(standing, ordered, mark),
            notices: vec![notice],
        });
    }
}

/// What an order is called.
pub(crate) fn planned(standing: &Standing<'_>) -> PlanAction {
    let has = standing.kata_node.map(|node| &node.spec);
    match &standing.order {
        _ if standing.owner.is_none() => PlanAction::Uninstall,
        _ if has.is_some_and(|has| has.version.is_some() && has.action == Action::Install) => {
            PlanAction::Upgrade
        }
        _ => PlanAction::Install,
    }
}

/// Objects of clean nodes, and those that mean another machine, when the
/// labels are gone.
fn let_go(steps: &mut Vec<Step>, standings: &[Standing<'_>]) {
    let clean = |standing: &&Standing<'_>| {
        let clean = standing.state == State::Clean && standing.kata_node.is_some();
        clean || standing.replaced
    };
    steps.extend(standings.iter().filter(clean).map(|standing| {
        let name = standing.name.to_owned();
        Step::from(Change::DeleteKataNode { name })
    }));
}

/// Nodes that still belong to a `KataConfig`, by their objects.
fn holding<'s, 'a>(
    want: &Want<'_>,
    standings: &'s [Standing<'a>],
) -> impl Iterator<Item = &'s Standing<'a>> {
    let name = want.name.to_owned();
    standings.iter().filter(move |standing| {
        let leaves = standing.seat.is_some() && standing.owner.is_none();
        standing
            .kata_node
            .map_or(leaves && standing.budget == name, |node| {
                node.spec.kata_config == name
            })
    })
}

/// Whether a deleted `KataConfig` has nothing left that could be waited for.
fn finished(want: &Want<'_>, standings: &[Standing<'_>]) -> bool {
    let over = |standing: &Standing<'_>| standing.orphaned || standing.replaced;
    want.deleting && has_finalizer(want) && holding(want, standings).all(over)
}

fn removed(want: &Want<'_>, standings: &[Standing<'_>]) -> Step {
    let orphaned = holding(want, standings).filter(|standing| standing.orphaned);
    let orphaned: Vec<_> = orphaned.map(|standing| standing.name).collect();
    let message = format!(
        "unreachable nodes are cleaned when they return: {}",
        crate::told(orphaned.iter().copied())
    );
    let notice = Notice {
        config: want.name.to_owned(),
        warning: true,
        reason: "Orphaned",
        message,
    };
    Step {
        change: Change::RemoveFinalizer {
            config: want.name.to_owned(),
        },
        notices: if orphaned.is_empty() {
            Vec::new()
        } else {
            vec![notice]
        },
    }
}

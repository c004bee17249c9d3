//! Which nodes are started now, and why the others are not.

use std::collections::{BTreeMap, BTreeSet};

use bulkhead_kataconfig::runtime_label;
use jiff::Timestamp;

use crate::standing::{Standing, State, by_budget, orphaned_at};
use crate::told;
use crate::want::Want;

/// What starts, what waits, and when to look again.
#[derive(Debug, Default)]
pub(crate) struct Pace<'a> {
    /// Nodes to give their order to.
    pub(crate) starts: BTreeSet<&'a str>,
    /// Nodes that have an order, and what it waits for; in the order in which
    /// their turns come.
    pub(crate) queue: BTreeMap<&'a str, Vec<(&'a str, Option<String>)>>,
    /// Why no node of a `KataConfig` is started.
    pub(crate) stopped: BTreeMap<&'a str, String>,
    /// The next time at which time alone changes something.
    pub(crate) wake: Option<Timestamp>,
}

impl Pace<'_> {
    /// Looks again at a time to come.
    fn look_at(&mut self, at: Timestamp, now: Timestamp) {
        if at > now {
            self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
        }
    }
}

/// Decides for all budgets.
pub(crate) fn pace<'a>(
    standings: &'a [Standing<'a>],
    wants: &[Want<'_>],
    now: Timestamp,
) -> Pace<'a> {
    let mut pace = Pace::default();
    for (budget, members) in by_budget(standings) {
        let want = wants.iter().find(|want| want.name == budget);
        one(&mut pace, budget, &members, want, now);
        for member in members {
            let times = [
                orphaned_at(member.node, member.seat.is_some() && member.in_flight),
                member.stalls_at(),
                member.due.filter(|_| member.order.is_some()),
            ];
            for at in times.into_iter().flatten() {
                pace.look_at(at, now);
            }
        }
    }
    pace
}

fn one<'a>(
    pace: &mut Pace<'a>,
    budget: &'a str,
    members: &[&'a Standing<'a>],
    want: Option<&Want<'_>>,
    now: Timestamp,
) {
    // A pool of somebody else is taken whole, at its own pace.
    let whole = members
        .iter()
        .any(|m| m.seat.as_ref().is_some_and(|seat| seat.whole_pool));
    let limit = match whole {
        true => members.len(),
        false => want.map_or(1, |want| want.max_unavailable(members.len())),
    };
    let down = members.iter().filter(|member| member.unavailable()).count();
    let mut slots = limit.saturating_sub(down);
    let mut canaries = canaries(members, want).filter(|_| !whole);
    let stopped = want.and_then(|want| stopped(want, members, now));
    let mut candidates: Vec<_> = members.iter().filter(|member| queued(member)).collect();
    candidates.sort_by_key(|member| (rank(member.state), member.name));
    if stopped.is_some()
        && !candidates.is_empty()
        && let Some(next) = want.and_then(|want| want.windows.next(now))
    {
        pace.look_at(next, now);
    }
    for candidate in candidates {
        let free = candidate.in_flight;
        let first = matches!(candidate.state, State::WaitingToInstall);
        let mut waits = waits_for(candidate, now);
        if waits.is_none() {
            waits = stopped
                .as_ref()
                .filter(|stop| stop.holds(first))
                .map(|s| s.why.clone());
        }
        if waits.is_none() && !free && first && canaries == Some(0) {
            waits = Some("the first nodes (canary) to be ready".into());
        }
        // Who is being changed already may be told something else, unless too
        // many are down for reasons of their own.
        let full = if free { down > limit } else { slots == 0 };
        if waits.is_none() && full {
            waits = Some(format!(
                "{down} of at most {limit} nodes to be available again"
            ));
        }
        if waits.is_none() {
            pace.starts.insert(candidate.name);
            if !free {
                slots -= 1;
                canaries = canaries.map(|left| left.saturating_sub(usize::from(first)));
            }
        }
        pace.queue
            .entry(budget)
            .or_default()
            .push((candidate.name, waits));
    }
    if let Some(stop) = stopped {
        pace.stopped.insert(budget, stop.why);
    }
}

/// Whether something is left to do on a node.
fn queued(member: &Standing<'_>) -> bool {
    let waiting = matches!(
        member.state,
        State::WaitingToInstall
            | State::FailedToInstall
            | State::WaitingToUninstall
            | State::FailedToUninstall
    );
    waiting || (member.state == State::Installing && member.order.is_some())
}

/// First what is being left, then what is new, then what failed before.
fn rank(state: State) -> u8 {
    match state {
        State::WaitingToUninstall | State::Installing => 0,
        State::FailedToInstall | State::FailedToUninstall => 2,
        _ => 1,
    }
}

/// How many nodes may still be started as canaries; `None` when the canaries
/// are through.
fn canaries(members: &[&Standing<'_>], want: Option<&Want<'_>>) -> Option<usize> {
    let count = |state| {
        members
            .iter()
            .filter(|member| member.state == state)
            .count()
    };
    let canary = usize::try_from(want?.config.spec.rollout.canary).unwrap_or(usize::MAX);
    let ready = count(State::Installed);
    (ready < canary)
        .then(|| canary - ready)
        .map(|left| left.saturating_sub(count(State::Installing)))
}

/// Why a `KataConfig` starts no nodes.
struct Stop {
    why: String,
    /// Only new installations; retries and removals go on.
    installs_only: bool,
}

impl Stop {
    fn holds(&self, first: bool) -> bool {
        first || !self.installs_only
    }
}

/// A deletion is the administrator's word: neither pause nor window holds it.
fn stopped(want: &Want<'_>, members: &[&Standing<'_>], now: Timestamp) -> Option<Stop> {
    let rollout = &want.config.spec.rollout;
    if want.deleting {
        return None;
    }
    let all = |why: &str| {
        Some(Stop {
            why: why.into(),
            installs_only: false,
        })
    };
    if let Some(obstacle) = &want.obstacle {
        return all(&obstacle.message);
    }
    if rollout.paused {
        return all("rollout.paused to be taken away");
    }
    if !want.windows.open(now) {
        return all("the next maintenance window");
    }
    let failed = members
        .iter()
        .filter(|member| member.state == State::FailedToInstall || member.stalled(now));
    let failed: Vec<_> = failed.map(|member| member.name).collect();
    let limit = usize::try_from(rollout.max_failures).unwrap_or(usize::MAX);
    (rollout.pause_on_failure && failed.len() >= limit).then(|| Stop {
        why: format!("the failed nodes to recover: {}", told(failed)),
        installs_only: true,
    })
}

/// What a node itself waits for.
fn waits_for(member: &Standing<'_>, now: Timestamp) -> Option<String> {
    if let Some(waits) = member.seat.as_ref().and_then(|seat| seat.waits.clone()) {
        return Some(waits);
    }
    if !member.node.ready {
        return Some("the node to be ready".into());
    }
    if member.order.is_none() && !member.pods.is_empty() {
        return Some("running pods to end".into());
    }
    let Some(order) = &member.order else {
        return Some("the node's agent to look at the machine".into());
    };
    if member.due.is_some_and(|due| due > now) {
        return Some(match member.pods.is_empty() {
            true => "the next try after a failure".into(),
            false => "running pods to end, or the grace to be over".into(),
        });
    }
    let leaving = matches!(
        member.state,
        State::WaitingToUninstall | State::FailedToUninstall
    );
    let offered = order.handlers.iter().any(|handler| {
        member
            .node
            .labels
            .contains_key(&runtime_label(&handler.name))
    });
    (leaving && offered).then(|| "the node's label to be taken away".into())
}

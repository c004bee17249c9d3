//! What is told about a `KataConfig`: lists, conditions, plan.

use std::collections::BTreeMap;

use bulkhead_kataconfig::{KataConfigStatus, KataNodes, Plan, PlanAction, PlanStep};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::pace::Pace;
use crate::plan::{Notice, planned};
use crate::snapshot::Snapshot;
use crate::standing::{Standing, State};
use crate::want::{Owners, Want};
use crate::{NAMES_TOLD, told};

/// Names a list of nodes holds.
const LIST_MAX: usize = 100;
/// Steps a plan holds.
const PLAN_MAX: usize = 20;
/// Bytes of an agent's words that are repeated.
const ERROR_MAX: usize = 256;

/// What a condition says.
struct Says {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

/// The nodes of a `KataConfig`, by state. Orphaned ones are in no other list.
struct Census<'a> {
    by_state: BTreeMap<State, Vec<&'a str>>,
    orphaned: Vec<&'a str>,
}

impl Census<'_> {
    fn of(&self, state: State) -> &[&str] {
        self.by_state.get(&state).map_or(&[], Vec::as_slice)
    }

    fn count(&self, states: &[State]) -> usize {
        states.iter().map(|state| self.of(*state).len()).sum()
    }
}

/// The status of a `KataConfig`, and what to tell when it is written.
pub(crate) fn status(
    index: usize,
    wants: &[Want<'_>],
    standings: &[Standing<'_>],
    owners: &Owners<'_>,
    pace: &Pace<'_>,
    snapshot: &Snapshot,
) -> (KataConfigStatus, Vec<Notice>) {
    let want = &wants[index];
    let members: Vec<_> = standings.iter().filter(|s| s.budget == want.name).collect();
    let census = census(&members);
    let stalled = members.iter().filter(|member| member.stalled(snapshot.now));
    let stalled: Vec<_> = stalled.map(|member| member.name).collect();
    let says = [
        ready(want, &census),
        progressing(want, &census, pace, &members),
        degraded(&census, &stalled, &members, snapshot.refused.as_deref()),
        blocked(index, wants, &members, owners),
        upgrade(want, snapshot),
    ];
    let in_progress = in_progress(want, &says);
    let old = want.config.status.clone().unwrap_or_default();
    let generation = want.config.metadata.generation;
    let conditions: Vec<_> = says
        .into_iter()
        .chain([in_progress])
        .map(|says| condition(says, &old.conditions, generation, snapshot))
        .collect();
    let classes = snapshot.classes.iter().filter(|(name, class)| {
        class.managed && want.handlers.iter().any(|handler| handler.name == **name)
    });
    let status = KataConfigStatus {
        runtime_classes: classes.map(|(name, _)| name.clone()).collect(),
        kata_nodes: lists(&census),
        conditions,
        waiting_for_mco_to_start: members
            .iter()
            .any(|m| m.seat.as_ref().is_some_and(|seat| seat.unheard)),
        observed_generation: generation,
        version: Some(want.version.clone()).filter(|version| !version.is_empty()),
        plan: steps(want, &members, pace),
    };
    let notices = notices(want, &old, &status, &members);
    (status, notices)
}

fn census<'a>(members: &[&Standing<'a>]) -> Census<'a> {
    let mut census = Census {
        by_state: BTreeMap::new(),
        orphaned: Vec::new(),
    };
    for member in members {
        if member.orphaned {
            census.orphaned.push(member.name);
        } else {
            census
                .by_state
                .entry(member.state)
                .or_default()
                .push(member.name);
        }
    }
    census
}

/// The states that have a list, with their names.
const LISTED: [(State, &str); 8] = [
    (State::Installed, "installed"),
    (State::Installing, "installing"),
    (State::WaitingToInstall, "waitingToInstall"),
    (State::FailedToInstall, "failedToInstall"),
    (State::Uninstalling, "uninstalling"),
    (State::WaitingToUninstall, "waitingToUninstall"),
    (State::FailedToUninstall, "failedToUninstall"),
    (State::Ineligible, "ineligible"),
];

fn lists(census: &Census<'_>) -> KataNodes {
    let some = |names: &[&str]| {
        names
            .iter()
            .take(LIST_MAX)
            .map(|name| (*name).to_owned())
            .collect()
    };
    let list = |state| some(census.of(state));
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let listed = LISTED
        .iter()
        .map(|(state, name)| (*name, census.of(*state).len()));
    let counts = listed.chain([("orphaned", census.orphaned.len())]);
    KataNodes {
        node_count: number(census.count(&WANTED)),
        ready_node_count: number(census.of(State::Installed).len()),
        installed: list(State::Installed),
        installing: list(State::Installing),
        waiting_to_install: list(State::WaitingToInstall),
        failed_to_install: list(State::FailedToInstall),
        uninstalling: list(State::Uninstalling),
        waiting_to_uninstall: list(State::WaitingToUninstall),
        failed_to_uninstall: list(State::FailedToUninstall),
        ineligible: list(State::Ineligible),
        orphaned: some(&census.orphaned),
        counts: counts
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| (name.to_owned(), number(count)))
            .collect(),
    }
}

const WANTED: [State; 4] = [
    State::Installed,
    State::Installing,
    State::WaitingToInstall,
    State::FailedToInstall,
];

const LEAVING: [State; 3] = [
    State::Uninstalling,
    State::WaitingToUninstall,
    State::FailedToUninstall,
];

fn ready(want: &Want<'_>, census: &Census<'_>) -> Says {
    let (done, all) = (census.of(State::Installed).len(), census.count(&WANTED));
    let (holds, reason) = match (done, all) {
        _ if want.deleting => (false, "Deleting"),
        (0, 0) => (false, "NoNodes"),
        _ if done == all => (true, "AllNodesReady"),
        _ => (false, "NodesNotReady"),
    };
    let message = match all {
        _ if want.deleting => "the KataConfig is being deleted".to_owned(),
        0 => "no node that can run virtual machines is selected; control-plane nodes are not, \
              unless they have the label node-role.kubernetes.io/worker"
            .to_owned(),
        _ => format!("{done} of {all} nodes are ready"),
    };
    Says {
        kind: "Ready",
        holds,
        reason,
        message,
    }
}

fn progressing(
    want: &Want<'_>,
    census: &Census<'_>,
    pace: &Pace<'_>,
    members: &[&Standing<'_>],
) -> Says {
    let installs = [State::Installing, State::WaitingToInstall];
    let removals = [State::Uninstalling, State::WaitingToUninstall];
    let (coming, leaving) = (census.count(&installs), census.count(&removals));
    let starting = pace
        .queue
        .get(want.name)
        .into_iter()
        .flatten()
        .any(|(_, why)| why.is_none());
    let moving = census.count(&[State::Installing, State::Uninstalling]) > 0 || starting;
    let stopped = pace.stopped.get(want.name);
    let (holds, reason, mut message) = match (coming, leaving) {
        (0, 0) => (false, "Settled", "nothing is left to do".to_owned()),
        (0, left) => (
            true,
            "Uninstalling",
            format!("{left} nodes are left to clean"),
        ),
        (left, 0) => (
            true,
            "Installing",
            format!("{left} nodes are left to install"),
        ),
        (new, old) => {
            let message = format!("{new} nodes are left to install, {old} to clean");
            (true, "Changing", message)
        }
    };
    let mut reason = reason;
    if let Some(why) = stopped.filter(|_| holds && !moving) {
        reason = "Waiting";
        message = format!("{message}; waiting for {why}");
    } else if let Some(why) = members
        .iter()
        .find_map(|member| member.seat.as_ref()?.waits.as_deref())
    {
        message = format!("{message}; waiting for {}", short(why));
    }
    Says {
        kind: "Progressing",
        holds,
        reason,
        message,
    }
}

fn degraded(
    census: &Census<'_>,
    stalled: &[&str],
    members: &[&Standing<'_>],
    refused: Option<&str>,
) -> Says {
    let failed = [State::FailedToInstall, State::FailedToUninstall];
    let failed = failed.iter().flat_map(|state| census.of(*state)).copied();
    let failed: Vec<_> = failed.collect();
    let mut parts = Vec::new();
    // The reason is on the node alone where no KataNode is.
    let seated = |name: &str| {
        let member = members.iter().find(|member| member.name == name)?;
        Some(short(member.seat.as_ref()?.error.as_deref()?))
    };
    let reasons = failed
        .iter()
        .take(NAMES_TOLD)
        .filter_map(|name| Some(format!("Node {name} Degraded: {}", seated(name)?)));
    let reasons: Vec<_> = reasons.collect();
    if !reasons.is_empty() {
        parts.push(reasons.join("; "));
    } else if !failed.is_empty() {
        parts.push(format!(
            "failed, see their KataNodes: {}",
            told(failed.iter().copied())
        ));
    }
    if !census.orphaned.is_empty() {
        parts.push(format!(
            "unreachable: {}",
            told(census.orphaned.iter().copied())
        ));
    }
    if !stalled.is_empty() {
        parts.push(format!(
            "no answer for half an hour, see the agents' logs: {}",
            told(stalled.iter().copied())
        ));
    }
    if let Some(refused) = refused {
        parts.push(format!("the API server refuses {}", short(refused)));
    }
    let holds = !parts.is_empty();
    if !holds {
        parts.push("no node failed, none is unreachable".to_owned());
    }
    let reason = match (
        failed.is_empty(),
        stalled.is_empty(),
        census.orphaned.is_empty(),
    ) {
        (false, ..) => "NodesFailed",
        (true, false, _) => "NodesStalled",
        (true, true, false) => "NodesUnreachable",
        (true, true, true) if refused.is_some() => "WritesRefused",
        (true, true, true) => "AsExpected",
    };
    Says {
        kind: "Degraded",
        holds,
        reason,
        message: parts.join("; "),
    }
}

fn blocked(
    index: usize,
    wants: &[Want<'_>],
    members: &[&Standing<'_>],
    owners: &Owners<'_>,
) -> Says {
    let kind = "Blocked";
    let want = &wants[index];
    if let Some(obstacle) = want.obstacle.as_ref().filter(|_| !want.deleting) {
        let message = obstacle.message.clone();
        return Says {
            kind,
            holds: true,
            reason: obstacle.reason,
            message,
        };
    }
    let waiting = members
        .iter()
        .filter(|m| LEAVING.contains(&m.state) && !m.pods.is_empty());
    let waiting: Vec<_> = waiting.filter(|m| m.state != State::Uninstalling).collect();
    if let Some(first) = waiting.first() {
        let message = format!(
            "{} nodes are kept by running pods: {} by {}",
            waiting.len(),
            first.name,
            told(pods(first).iter().map(String::as_str))
        );
        return Says {
            kind,
            holds: true,
            reason: "BlockedByExistingKataPods",
            message,
        };
    }
    if let Some(nodes) = owners.contested.get(&index) {
        let mut older: Vec<_> = nodes.values().map(|owner| wants[*owner].name).collect();
        older.sort_unstable();
        older.dedup();
        let message = format!(
            "{} nodes belong to older KataConfigs ({}): {}; change one of the selectors",
            nodes.len(),
            told(older),
            told(nodes.keys().copied())
        );
        return Says {
            kind,
            holds: true,
            reason: "NodesOwnedByOther",
            message,
        };
    }
    Says {
        kind,
        holds: false,
        reason: "NotBlocked",
        message: "nothing stands in the way".into(),
    }
}

fn pods(standing: &Standing<'_>) -> Vec<String> {
    standing
        .pods
        .iter()
        .map(|pod| format!("{}/{}", pod.namespace, pod.name))
        .collect()
}

fn upgrade(want: &Want<'_>, snapshot: &Snapshot) -> Says {
    let kind = "UpgradeAvailable";
    let channel = &want.config.spec.channel;
    match snapshot.releases.get(channel) {
        Some(offered) if *offered != want.version && !want.version.is_empty() => Says {
            kind,
            holds: true,
            reason: "NewVersion",
            message: format!(
                "channel `{channel}` offers {offered}; this is {}",
                want.version
            ),
        },
        _ => Says {
            kind,
            holds: false,
            reason: "UpToDate",
            message: "the channel offers nothing else".into(),
        },
    }
}

/// The OSC operator's only condition, in its words.
fn in_progress(want: &Want<'_>, says: &[Says; 5]) -> Says {
    let [_, progressing, degraded, blocked, _] = says;
    // The first installation is one until it is over.
    let before = want
        .config
        .status
        .iter()
        .flat_map(|status| &status.conditions);
    let before = before
        .into_iter()
        .find(|condition| condition.type_ == "InProgress");
    let first = before.is_none_or(|before| before.reason == "Installing");
    let (holds, reason) = match () {
        () if blocked.holds && blocked.reason == "BlockedByExistingKataPods" => {
            (false, "BlockedByExistingKataPods")
        }
        () if progressing.holds && want.deleting => (true, "Uninstalling"),
        () if degraded.reason == "NodesFailed" => (true, "Failed"),
        () if progressing.holds && first => (true, "Installing"),
        () if progressing.holds => (true, "Updating"),
        () => (false, "Settled"),
    };
    let message = match reason {
        "Failed" => degraded.message.clone(),
        "BlockedByExistingKataPods" => blocked.message.clone(),
        _ => progressing.message.clone(),
    };
    Says {
        kind: "InProgress",
        holds,
        reason,
        message,
    }
}

fn condition(
    says: Says,
    old: &[Condition],
    generation: Option<i64>,
    snapshot: &Snapshot,
) -> Condition {
    let status = if says.holds { "True" } else { "False" };
    let same = old
        .iter()
        .find(|old| old.type_ == says.kind && old.status == status);
    Condition {
        type_: says.kind.to_owned(),
        status: status.to_owned(),
        reason: says.reason.to_owned(),
        message: says.message,
        observed_generation: generation,
        // The API server keeps whole seconds.
        last_transition_time: same.map_or_else(
            || Time(jiff::Timestamp::from_second(snapshot.now.as_second()).unwrap_or_default()),
            |old| old.last_transition_time.clone(),
        ),
    }
}

fn steps(want: &Want<'_>, members: &[&Standing<'_>], pace: &Pace<'_>) -> Plan {
    let queue = pace.queue.get(want.name).map_or(&[][..], Vec::as_slice);
    let step = |(name, waits): &(&str, Option<String>)| {
        let member = members.iter().find(|member| member.name == *name)?;
        let version = member
            .order
            .as_ref()
            .and_then(|order| order.version.clone());
        let action = planned(member);
        let leaves = action == PlanAction::Uninstall;
        Some(PlanStep {
            node: (*name).to_owned(),
            action,
            version: version
                .or_else(|| Some(want.version.clone()))
                .filter(|version| !leaves && !version.is_empty()),
            restarts: vec![
                match member.seat.is_some() {
                    true => "the machine: the Machine Config Operator drains and reboots it",
                    false => "the node's container runtime, if its configuration changes",
                }
                .into(),
            ],
            blocked_by: pods(member).into_iter().take(NAMES_TOLD).collect(),
            waiting_for: waits.clone(),
        })
    };
    Plan {
        total: u32::try_from(queue.len()).unwrap_or(u32::MAX),
        steps: queue.iter().take(PLAN_MAX).filter_map(step).collect(),
    }
}

/// Conditions that changed and nodes that failed.
fn notices(
    want: &Want<'_>,
    old: &KataConfigStatus,
    new: &KataConfigStatus,
    members: &[&Standing<'_>],
) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut tell = |warning, reason, message: String| {
        let config = want.name.to_owned();
        notices.push(Notice {
            config,
            warning,
            reason,
            message,
        });
    };
    for (kind, holding, ending) in [
        ("Ready", "Ready", "NotReady"),
        ("Blocked", "Blocked", "NoLongerBlocked"),
        ("Degraded", "Degraded", "Recovered"),
    ] {
        let find = |status: &KataConfigStatus| {
            let mut all = status.conditions.iter();
            all.find(|c| c.type_ == kind)
                .map(|c| (c.status == "True", c.message.clone()))
        };
        let before = find(old).is_some_and(|(holds, _)| holds);
        if let Some((holds, message)) = find(new).filter(|(holds, _)| *holds != before) {
            let warning = holds != (kind == "Ready");
            let reason = if holds { holding } else { ending };
            tell(warning, reason, message);
        }
    }
    let lists = [
        (
            &old.kata_nodes.failed_to_install,
            &new.kata_nodes.failed_to_install,
        ),
        (
            &old.kata_nodes.failed_to_uninstall,
            &new.kata_nodes.failed_to_uninstall,
        ),
    ];
    for (before, now) in lists {
        let fresh = now.iter().filter(|name| !before.contains(name));
        for name in fresh.take(NAMES_TOLD) {
            let member = members.iter().find(|member| member.name == *name);
            let error = member.and_then(|member| member.error());
            tell(
                true,
                "NodeFailed",
                format!("{name}: {}", short(error.unwrap_or("no reason"))),
            );
        }
    }
    notices
}

/// An agent's words: as many as fit, on one line.
fn short(text: &str) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut size = 0;
    line.take_while(|c| {
        size += c.len_utf8();
        size <= ERROR_MAX
    })
    .collect()
}

//! What the Machine Config Operator is told: labels, a MachineConfig, a pool.

use std::collections::BTreeMap;

use bulkhead_kataconfig::{DEFAULT_HANDLER, MEMBER_LABEL, runtime_label};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::{CONFIG, MASTER, Machines, POOL, ROLE_LABEL, Seat, WORKER, control_plane};
use crate::pace::Pace;
use crate::plan::{Change, Step};
use crate::snapshot::{MachineConfigView, PoolSpec, Snapshot};
use crate::standing::{Standing, State};
use crate::want::Want;

/// The change that is a node's order; none where the order is one for all.
pub(crate) fn tell(standing: &Standing<'_>, seat: &Seat) -> Option<Change> {
    let member = standing.owner.map(|_| String::new());
    (!seat.whole_pool).then(|| Change::PatchNode {
        name: standing.name.to_owned(),
        labels: BTreeMap::from([(MEMBER_LABEL.to_owned(), member)]),
        annotations: BTreeMap::new(),
        lift_taint: false,
        unschedulable: None,
    })
}

fn wanted_config(machines: &Machines<'_>) -> MachineConfigView {
    let role = if machines.converged { MASTER } else { POOL };
    MachineConfigView {
        managed: true,
        role: role.into(),
        pool: None,
        extensions: vec![machines.views.extension.clone()],
    }
}

/// Our pool takes what `worker` has, and the extension.
fn wanted_pool(want: &Want<'_>) -> PoolSpec {
    let roles = LabelSelectorRequirement {
        key: ROLE_LABEL.into(),
        operator: "In".into(),
        values: Some(vec![POOL.into(), WORKER.into()]),
    };
    PoolSpec {
        node_selector: LabelSelector {
            match_labels: Some(BTreeMap::from([(MEMBER_LABEL.to_owned(), String::new())])),
            match_expressions: None,
        },
        config_selector: LabelSelector {
            match_labels: None,
            match_expressions: Some(vec![roles]),
        },
        max_unavailable: Some(want.config.spec.rollout.max_unavailable.clone()),
    }
}

/// The MachineConfig and the pool, when the first node may start; the
/// MachineConfig first, so that no node is rebooted twice.
pub(crate) fn provide(
    steps: &mut Vec<Step>,
    machines: &Machines<'_>,
    snapshot: &Snapshot,
    wants: &[Want<'_>],
    pace: &Pace<'_>,
) {
    let want = machines.holder.map(|index| &wants[index]);
    let Some(want) = want.filter(|want| !want.deleting && want.obstacle.is_none()) else {
        return;
    };
    let selected = snapshot.nodes.values().any(|node| want.selects(node));
    let begun = machines.own_config() || machines.own_pool();
    let may_begin = match machines.converged {
        true => pace.starts.iter().any(|name| {
            let node = snapshot.nodes.get(*name);
            node.is_some_and(control_plane)
        }),
        false => selected && !pace.stopped.contains_key(want.name),
    };
    if !begun && !may_begin {
        return;
    }
    let config = wanted_config(machines);
    if machines.views.configs.get(CONFIG) != Some(&config) {
        let name = CONFIG.to_owned();
        steps.push(Change::ApplyMachineConfig { name, config }.into());
    }
    if machines.converged {
        return;
    }
    if !machines.own_pool() {
        // Whoever has the label already would be taken all at once.
        let strays = snapshot.nodes.iter();
        let strays = strays.filter(|(_, node)| node.labels.contains_key(MEMBER_LABEL));
        steps.extend(strays.map(|(name, _)| {
            let name = name.clone();
            let labels = BTreeMap::from([(MEMBER_LABEL.to_owned(), None)]);
            Step::from(Change::PatchNode {
                name,
                labels,
                annotations: BTreeMap::new(),
                lift_taint: false,
                unschedulable: None,
            })
        }));
    }
    let pool = wanted_pool(want);
    if machines.views.pools.get(POOL).map(|own| &own.spec) != Some(&pool) {
        let name = POOL.to_owned();
        steps.push(Change::ApplyPool { name, pool }.into());
    }
}

/// Pool and MachineConfig, when no node needs them: rendered configs go with
/// their pool, and a node that still has one could not go on without.
pub(crate) fn retire(
    steps: &mut Vec<Step>,
    machines: &Machines<'_>,
    snapshot: &Snapshot,
    wants: &[Want<'_>],
    standings: &[Standing<'_>],
    pace: &Pace<'_>,
) {
    let holder = machines.holder.map(|index| &wants[index]);
    if holder.is_some_and(|want| !want.deleting) {
        return;
    }
    let keeps = |standing: &Standing<'_>| match machines.converged {
        // Its MachineConfig is what keeps the runtime: away when all may go.
        true => {
            let label = standing
                .node
                .labels
                .contains_key(&runtime_label(DEFAULT_HANDLER));
            let told = standing.state == State::WaitingToUninstall && !standing.orphaned;
            told && (label || !pace.starts.contains(standing.name))
        }
        false => false,
    };
    let seated = standings.iter().filter(|standing| standing.seat.is_some());
    let kept = match machines.converged {
        true => seated.into_iter().any(keeps),
        false => snapshot.nodes.values().any(|node| machines.touches(node)),
    };
    if kept {
        return;
    }
    if machines.own_pool() {
        let name = POOL.to_owned();
        steps.push(Change::DeletePool { name }.into());
    }
    if machines.own_config() {
        let name = CONFIG.to_owned();
        steps.push(Change::DeleteMachineConfig { name }.into());
    }
}

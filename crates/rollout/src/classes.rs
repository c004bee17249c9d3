//! RuntimeClasses: made when the first node serves a handler, withdrawn before
//! the last one is cleaned.

use std::collections::{BTreeMap, BTreeSet};

use bulkhead_kataconfig::{Action, DEFAULT_HANDLER, runtime_label};

use crate::pace::Pace;
use crate::snapshot::{ClassView, Snapshot};
use crate::standing::{Standing, State};
use crate::want::Want;

/// What to do about RuntimeClasses.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    pub(crate) apply: BTreeMap<String, ClassView>,
    pub(crate) delete: BTreeSet<String>,
}

/// Compares what is there with what should be.
pub(crate) fn classes(
    snapshot: &Snapshot,
    wants: &[Want<'_>],
    standings: &[Standing<'_>],
    pace: &Pace<'_>,
) -> Classes {
    let mut classes = Classes::default();
    for want in wants
        .iter()
        .filter(|want| !want.deleting && want.obstacle.is_none())
    {
        for handler in &want.handlers {
            let name = &handler.name;
            let there = snapshot.classes.get(name);
            let served = || standings.iter().any(|node| installed(node, name));
            let class = class(want, name);
            // The oldest KataConfig that has the handler says what the class holds.
            let first = !classes.apply.contains_key(name);
            if first && (there.is_some() || served()) {
                classes.apply.insert(name.clone(), class);
            }
        }
    }
    let managed = snapshot.classes.iter().filter(|(_, class)| class.managed);
    for (name, _) in managed {
        let claimed = wants
            .iter()
            .filter(|want| !want.deleting)
            .any(|want| want.handlers.iter().any(|handler| handler.name == *name));
        let left = standings.iter().any(|node| remains(node, name, pace));
        if !claimed && !left {
            classes.delete.insert(name.clone());
        }
    }
    classes
        .apply
        .retain(|name, class| snapshot.classes.get(name) != Some(class));
    classes
}

fn class(want: &Want<'_>, handler: &str) -> ClassView {
    let overhead = want.overheads.get(handler).cloned().unwrap_or_default();
    ClassView {
        handler: handler.to_owned(),
        managed: true,
        cpu: overhead.cpu.unwrap_or_default(),
        memory: overhead.memory.unwrap_or_default(),
        node_selector: BTreeMap::from([(runtime_label(handler), "true".to_owned())]),
    }
}

fn installed(node: &Standing<'_>, handler: &str) -> bool {
    node.state == State::Installed && node.serves(handler)
}

/// Whether a node goes on holding a handler after this run's steps.
fn remains(node: &Standing<'_>, handler: &str, pace: &Pace<'_>) -> bool {
    let starts = pace.starts.contains(node.name);
    let Some(kata_node) = node.kata_node else {
        let leaves = node.owner.is_none() && starts || node.state == State::Uninstalling;
        return handler == DEFAULT_HANDLER && node.touched() && !node.orphaned && !leaves;
    };
    let spec = match &node.order {
        Some(order) if starts => order,
        _ => &kata_node.spec,
    };
    let holds = spec.handlers.iter().any(|own| own.name == handler);
    let told = spec.version.is_some() && spec.action != Action::Uninstall;
    !node.orphaned && holds && told
}

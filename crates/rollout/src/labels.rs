//! The labels of a node: what makes the scheduler send it pods, and what keeps
//! it from doing so.

use std::collections::BTreeMap;

use bulkhead_kataconfig::{MEMBER_LABEL, RUNTIME_LABEL_PREFIX, runtime_label};

use crate::snapshot::NodeView;
use crate::standing::{Standing, State};
use crate::want::Want;

/// A change of labels: `None` takes one away.
pub(crate) type Labels = BTreeMap<String, Option<String>>;

/// What has to change on a node that has a standing. Where the Machine Config
/// Operator is (`pools`), the member's label may move a node to another pool:
/// it stays as it is here, and changes when the node's turn comes.
pub(crate) fn labels(standing: &Standing<'_>, wants: &[Want<'_>], pools: bool) -> Labels {
    let mut wanted = BTreeMap::new();
    let member = match pools {
        true => standing.node.labels.contains_key(MEMBER_LABEL),
        false => standing.touched() && !standing.replaced && standing.state != State::Clean,
    };
    if member {
        wanted.insert(MEMBER_LABEL.to_owned(), String::new());
    }
    let want = standing.owner.map(|index| &wants[index]);
    for handler in want.iter().flat_map(|want| &want.handlers) {
        let label = runtime_label(&handler.name);
        // It keeps what it has while it is upgraded; it gets it with proof only.
        let keeps = standing.node.labels.contains_key(&label)
            && standing.state != State::Uninstalling
            && standing.serves(&handler.name);
        if !standing.replaced && (keeps || proven(standing, &handler.name)) {
            wanted.insert(label, "true".to_owned());
        }
    }
    let mut changes = surplus(standing.node, &wanted);
    if standing.kata_node.is_none() || pools {
        changes.remove(MEMBER_LABEL);
    }
    for (label, value) in wanted {
        let kept = pools && label == MEMBER_LABEL;
        if !kept && standing.node.labels.get(&label) != Some(&value) {
            changes.insert(label, Some(value));
        }
    }
    changes
}

/// What a node that nobody wants has to lose. The member's label may be
/// another program's there; the labels of runtimes are the operator's alone.
pub(crate) fn stale(node: &NodeView) -> Labels {
    let mut changes = surplus(node, &BTreeMap::new());
    changes.remove(MEMBER_LABEL);
    changes
}

fn proven(standing: &Standing<'_>, handler: &str) -> bool {
    standing.state == State::Installed && standing.serves(handler)
}

fn surplus(node: &NodeView, wanted: &BTreeMap<String, String>) -> Labels {
    let own = |label: &str| label == MEMBER_LABEL || label.starts_with(RUNTIME_LABEL_PREFIX);
    let labels = node
        .labels
        .keys()
        .filter(|label| own(label) && !wanted.contains_key(*label));
    labels.map(|label| (label.clone(), None)).collect()
}

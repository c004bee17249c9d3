//! Decides what the operator does next, from a snapshot of the cluster.
//!
//! ```text
//!   snapshot ─▶ wants ─▶ standings ─▶ pace ─▶ steps, in the order to apply
//!               (configs)  (nodes)   (budgets)
//! ```
//!
//! Level-based: nothing is remembered between two runs but what the cluster's
//! objects hold, the same snapshot gives the same steps, and any prefix of the
//! steps may be applied before the next run. No clock, no network: the caller
//! passes the time and applies the result.

mod classes;
mod labels;
mod machine;
mod pace;
mod plan;
mod report;
mod snapshot;
mod standing;
mod want;
mod window;

#[cfg(test)]
mod tests;

pub use plan::{Change, Notice, Outcome, Step, plan};
pub use snapshot::{
    ClassView, MachineConfigView, MachineConfigs, MachineView, NodeView, PodView, PoolSpec,
    PoolView, Snapshot,
};

use std::time::Duration;

/// How long a node may be unreachable before nothing waits for it any more.
pub const ORPHANED_AFTER: Duration = Duration::from_secs(600);

/// How long a node may take for an order before it counts as failed. Its place
/// in the budget stays taken, because nobody knows what it does.
pub const STALLED_AFTER: Duration = Duration::from_secs(1800);

/// Names told in a condition's message or in a list of pods.
const NAMES_TOLD: usize = 5;

/// Some names, and how many more there are.
fn told<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().collect();
    let shown = names[..names.len().min(NAMES_TOLD)].join(", ");
    match names.len().saturating_sub(NAMES_TOLD) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

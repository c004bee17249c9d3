//! What is counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bulkhead_kataconfig::{Action, KataConfig, KataNode, parse_memory};
use bulkhead_rollout::Snapshot;
use bulkhead_telemetry::Telemetry;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// States of nodes, as `status.kataNodes` names them. All are told, those
/// without nodes as 0: what was never there has no changes to Prometheus.
const STATES: [&str; 9] = [
    "installed",
    "installing",
    "waitingToInstall",
    "failedToInstall",
    "uninstalling",
    "waitingToUninstall",
    "failedToUninstall",
    "ineligible",
    "orphaned",
];

type Labels = [(&'static str, String); 2];
type One = [(&'static str, String); 1];

/// What is counted.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Counted>);

struct Counted {
    registry: Registry,
    nodes: Family<Labels, Gauge>,
    outdated: Family<One, Gauge>,
    without_handler: Family<One, Gauge>,
    conditions: Family<Labels, Gauge>,
    overhead: Family<One, Gauge>,
    writes: Family<Labels, Counter>,
    watch_failures: Counter,
    decisions: Histogram,
    leader: Gauge<i64>,
    ready: AtomicBool,
}

impl Metrics {
    /// Nothing counted yet.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("bulkhead_operator");
        let nodes = Family::default();
        registry.register("nodes", "Nodes of a KataConfig by state", nodes.clone());
        let outdated = Family::default();
        let help = "Nodes with another version than the one wanted of them";
        registry.register("nodes_outdated", help, outdated.clone());
        let without_handler = Family::default();
        let help = "Nodes with the version wanted of them that do not serve all its handlers";
        registry.register("nodes_without_handler", help, without_handler.clone());
        let conditions = Family::default();
        let help = "Conditions of a KataConfig, 1 when they hold";
        registry.register("condition", help, conditions.clone());
        let overhead = Family::default();
        let help = "Memory a RuntimeClass declares for each pod beside its containers";
        registry.register("overhead_bytes", help, overhead.clone());
        let writes = Family::default();
        registry.register("writes", "Writes to the API server", writes.clone());
        let watch_failures = Counter::default();
        registry.register(
            "watch_failures",
            "Watches that broke",
            watch_failures.clone(),
        );
        let decisions = Histogram::new(exponential_buckets(0.0001, 4.0, 9));
        registry.register("decision_seconds", "Time of a decision", decisions.clone());
        let leader = Gauge::default();
        registry.register(
            "leader",
            "Whether this operator is the one that acts",
            leader.clone(),
        );
        Self(Arc::new(Counted {
            registry,
            nodes,
            outdated,
            without_handler,
            conditions,
            overhead,
            writes,
            watch_failures,
            decisions,
            leader,
            ready: AtomicBool::new(false),
        }))
    }

    /// A watch broke.
    pub(crate) fn watch_failed(&self) {
        self.0.watch_failures.inc();
    }

    /// Whether this operator acts.
    pub(crate) fn leads(&self, leads: bool) {
        self.0.leader.set(i64::from(leads));
        if !leads {
            // What the one before knew is for the next to tell.
            self.0.forget();
        }
    }

    /// Whether everything is known that decisions need.
    pub(crate) fn ready(&self, ready: bool) {
        self.0.ready.store(ready, Ordering::Relaxed);
    }

    /// A decision was made, about this.
    pub(crate) fn decided(&self, took: Duration, snapshot: &Snapshot) {
        let counted = &self.0;
        counted.decisions.observe(took.as_secs_f64());
        counted.forget();
        counted.count_behind(&snapshot.configs, &snapshot.kata_nodes);
        let classes = snapshot.classes.iter().filter(|(_, class)| class.managed);
        for (name, class) in classes {
            let declared = parse_memory(&class.memory).unwrap_or_default() << 20;
            let label = [("runtimeclass", name.clone())];
            let declared = i64::try_from(declared).unwrap_or(i64::MAX);
            counted.overhead.get_or_create(&label).set(declared);
        }
        for (name, config) in &snapshot.configs {
            let Some(status) = &config.status else {
                continue;
            };
            for state in STATES {
                let labels = [("kataconfig", name.clone()), ("state", state.to_owned())];
                let count = status.kata_nodes.counts.get(state).copied();
                let count = i64::from(count.unwrap_or_default());
                counted.nodes.get_or_create(&labels).set(count);
            }
            for condition in &status.conditions {
                let labels = [
                    ("kataconfig", name.clone()),
                    ("type", condition.type_.clone()),
                ];
                let holds = i64::from(condition.status == "True");
                counted.conditions.get_or_create(&labels).set(holds);
            }
        }
    }

    /// A write was made, or failed.
    pub(crate) fn wrote(&self, kind: &'static str, done: bool) {
        let result = if done { "done" } else { "failed" };
        let labels = [("kind", kind.to_owned()), ("result", result.to_owned())];
        self.0.writes.get_or_create(&labels).inc();
    }
}

impl Counted {
    /// Forgets what is known of objects.
    fn forget(&self) {
        self.nodes.clear();
        self.outdated.clear();
        self.without_handler.clear();
        self.conditions.clear();
        self.overhead.clear();
    }

    /// Counts the nodes that have something else than what is wanted of them.
    fn count_behind(
        &self,
        configs: &BTreeMap<String, KataConfig>,
        kata_nodes: &BTreeMap<String, KataNode>,
    ) {
        let of = |name: &String| [("kataconfig", name.clone())];
        for name in configs.keys() {
            self.outdated.get_or_create(&of(name)).set(0);
            self.without_handler.get_or_create(&of(name)).set(0);
        }
        for node in kata_nodes.values() {
            let name = &node.spec.kata_config;
            if !configs.contains_key(name) {
                continue;
            }
            let family = match behind(node) {
                Some(Behind::Version) => &self.outdated,
                Some(Behind::Handler) => &self.without_handler,
                None => continue,
            };
            family.get_or_create(&of(name)).inc();
        }
    }
}

/// What a node with an installation lacks.
#[derive(Debug, PartialEq, Eq)]
enum Behind {
    /// The version that is wanted.
    Version,
    /// A handler, though it has the version.
    Handler,
}

fn behind(node: &KataNode) -> Option<Behind> {
    let (wanted, told) = (&node.spec, node.status.as_ref()?);
    if wanted.action != Action::Install || told.version.is_none() {
        return None;
    }
    if told.version != wanted.version {
        return Some(Behind::Version);
    }
    let mut handlers = wanted.handlers.iter();
    let lacks = handlers.any(|handler| !told.handlers.contains(&handler.name));
    lacks.then_some(Behind::Handler)
}

impl Telemetry for Metrics {
    fn metrics(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        Ok(text)
    }

    fn unready(&self) -> Option<&'static str> {
        let ready = self.0.ready.load(Ordering::Relaxed);
        (!ready).then_some("not everything is known yet")
    }
}

#[cfg(test)]
mod tests;

//! Metrics and probes over HTTP.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bulkhead_kataconfig::{Action, KataConfig, KataNode};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::Error;

/// Connections at one time.
const CONNECTIONS: usize = 16;
/// How long a client may take for a request.
const PATIENCE: Duration = Duration::from_secs(10);

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
type OfConfig = [(&'static str, String); 1];

/// What is counted.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Counted>);

struct Counted {
    registry: Registry,
    nodes: Family<Labels, Gauge>,
    outdated: Family<OfConfig, Gauge>,
    without_handler: Family<OfConfig, Gauge>,
    conditions: Family<Labels, Gauge>,
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

    /// A decision was made, about these.
    pub(crate) fn decided(
        &self,
        took: Duration,
        configs: &BTreeMap<String, KataConfig>,
        kata_nodes: &BTreeMap<String, KataNode>,
    ) {
        let counted = &self.0;
        counted.decisions.observe(took.as_secs_f64());
        counted.forget();
        counted.count_behind(configs, kata_nodes);
        for (name, config) in configs {
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

    fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.0.registry) {
            Ok(()) => text,
            Err(_) => String::new(),
        }
    }
}

impl Counted {
    /// Forgets what is known of objects.
    fn forget(&self) {
        self.nodes.clear();
        self.outdated.clear();
        self.without_handler.clear();
        self.conditions.clear();
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

/// Serves until the program ends.
pub(crate) async fn serve(address: SocketAddr, metrics: Metrics) -> Result<(), Error> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "serving metrics");
    }
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let metrics = metrics.clone();
            tokio::spawn(async move {
                let answer = service_fn(|request| std::future::ready(answer(&metrics, &request)));
                let connection = hyper::server::conn::http1::Builder::new()
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), answer);
                let _ = tokio::time::timeout(PATIENCE, connection).await;
                drop(place);
            });
        }
    });
    Ok(())
}

fn answer(
    metrics: &Metrics,
    request: &Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match request.uri().path() {
        "/metrics" => (StatusCode::OK, metrics.text()),
        "/healthz" => (StatusCode::OK, "alive\n".to_owned()),
        "/readyz" if metrics.0.ready.load(Ordering::Relaxed) => {
            (StatusCode::OK, "ready\n".to_owned())
        }
        "/readyz" => (
            StatusCode::SERVICE_UNAVAILABLE,
            "not everything is known yet\n".to_owned(),
        ),
        _ => (
            StatusCode::NOT_FOUND,
            "see /metrics, /healthz, /readyz\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    Ok(response)
}

#[cfg(test)]
mod tests;

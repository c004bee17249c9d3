//! Metrics and probes over HTTP.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bulkhead_kataconfig::KataConfig;
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

/// What is counted.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Counted>);

struct Counted {
    registry: Registry,
    nodes: Family<Labels, Gauge>,
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
            self.0.nodes.clear();
            self.0.conditions.clear();
        }
    }

    /// Whether everything is known that decisions need.
    pub(crate) fn ready(&self, ready: bool) {
        self.0.ready.store(ready, Ordering::Relaxed);
    }

    /// A decision was made, about these.
    pub(crate) fn decided(&self, took: Duration, configs: &BTreeMap<String, KataConfig>) {
        let counted = &self.0;
        counted.decisions.observe(took.as_secs_f64());
        counted.nodes.clear();
        counted.conditions.clear();
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
mod tests {
    use super::*;

    /// A KataConfig with twelve nodes that is Ready.
    fn configs() -> BTreeMap<String, KataConfig> {
        let mut config = KataConfig::default();
        let mut status = bulkhead_kataconfig::KataConfigStatus::default();
        status.kata_nodes.counts = [("installed".to_owned(), 12)].into();
        status
            .conditions
            .push(k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition {
                type_: "Ready".to_owned(),
                status: "True".to_owned(),
                last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                    jiff::Timestamp::UNIX_EPOCH,
                ),
                message: String::new(),
                observed_generation: None,
                reason: "Test".to_owned(),
            });
        config.status = Some(status);
        BTreeMap::from([("example".to_owned(), config)])
    }

    /// Everything alerts and dashboards say.
    fn asked() -> String {
        let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
        let files = [
            "prometheus/rules.yaml",
            "grafana/fleet.json",
            "grafana/pod.json",
        ];
        let texts = files.map(|file| std::fs::read_to_string(deploy.join(file)).unwrap());
        texts.concat()
    }

    #[test]
    fn alerts_and_dashboards_ask_for_what_is_told() {
        let metrics = Metrics::new();
        metrics.decided(Duration::from_millis(3), &configs());
        metrics.wrote("status", true);
        metrics.leads(true);
        let told = metrics.text();
        let asked = asked();
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let names = asked.split(|c| !word(c));
        let names: Vec<_> = names
            .filter(|name| name.starts_with("bulkhead_operator_"))
            .collect();
        assert!(names.len() > 10);
        for name in names {
            let found = told.lines().any(|line| {
                let rest = line.strip_prefix(name);
                rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            });
            assert!(found, "`{name}` is asked for and not told: {told}");
        }
    }

    #[test]
    fn states_are_those_of_the_status() {
        use kube::CustomResourceExt;
        let schema = serde_json::to_value(KataConfig::crd()).unwrap();
        let states = schema
            .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/status/properties")
            .unwrap()
            .pointer("/kataNodes/properties")
            .unwrap()
            .as_object()
            .unwrap();
        let lists = states
            .iter()
            .filter(|(_, schema)| schema["type"] == "array");
        let lists: Vec<_> = lists.map(|(name, _)| name.as_str()).collect();
        let mut told = STATES.to_vec();
        told.sort_unstable();
        assert_eq!(told, lists);
        let asked = asked();
        let selectors = asked.split("bulkhead_operator_nodes{").skip(1);
        let mut count = 0;
        for selector in selectors.filter_map(|part| part.split('}').next()) {
            let Some((_, states)) = selector.split_once("state=") else {
                continue;
            };
            // In JSON the quotes are escaped.
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '|';
            for state in states.replace(|c| !plain(c), "").split('|') {
                assert!(STATES.contains(&state), "no state `{state}`");
                count += 1;
            }
        }
        assert!(count > 6);
    }

    #[test]
    fn what_is_gone_is_not_counted_any_more() {
        let metrics = Metrics::new();
        let configs = configs();
        metrics.decided(Duration::from_millis(3), &configs);
        metrics.wrote("status", true);
        let text = metrics.text();
        let nodes = r#"bulkhead_operator_nodes{kataconfig="example",state="installed"} 12"#;
        assert!(text.contains(nodes), "{text}");
        let writes = r#"bulkhead_operator_writes_total{kind="status",result="done"} 1"#;
        assert!(text.contains(writes), "{text}");
        let none = r#"bulkhead_operator_nodes{kataconfig="example",state="orphaned"} 0"#;
        assert!(text.contains(none), "{text}");
        metrics.decided(Duration::from_millis(3), &BTreeMap::new());
        assert!(!metrics.text().contains("example"));
        metrics.decided(Duration::from_millis(3), &configs);
        metrics.leads(false);
        assert!(!metrics.text().contains("example"));
    }
}

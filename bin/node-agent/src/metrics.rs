//! What the agent counts, and whether it hears its orders.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bulkhead_kataconfig::{KataNodeSpec, KataNodeStatus, NodePhase};
use bulkhead_telemetry::Telemetry;
use jiff::Timestamp;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

use crate::order::Work;

type Float = Gauge<f64, AtomicU64>;
type One = [(&'static str, String); 1];
type Works = Family<[(&'static str, &'static str); 2], Histogram, fn() -> Histogram>;

/// All phases: those a node is not in are told as 0.
const PHASES: [(NodePhase, &str); 6] = [
    (NodePhase::Idle, "Idle"),
    (NodePhase::Installing, "Installing"),
    (NodePhase::Ready, "Ready"),
    (NodePhase::Uninstalling, "Uninstalling"),
    (NodePhase::Removed, "Removed"),
    (NodePhase::Failed, "Failed"),
];

/// How a work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// As it was to.
    Done,
    /// With a reason.
    Failed,
    /// By the agent's own end.
    Stopped,
}

/// What is counted.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    counted: Arc<Counted>,
    registry: Arc<Registry>,
}

#[derive(Debug)]
struct Counted {
    phases: Family<One, Gauge>,
    since: Float,
    retries: Gauge,
    version: Family<One, Gauge>,
    handlers: Family<One, Gauge>,
    preflight: Family<One, Gauge>,
    works: Works,
    verified: Float,
    smoke: Family<One, Float>,
    interval: Float,
    mends: Counter,
    writes: Family<One, Counter>,
    hears: AtomicBool,
}

/// From 10 ms to three quarters of an hour.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.01, 4.0, 10))
}

fn word(work: Work) -> &'static str {
    match work {
        Work::Look => "look",
        Work::Install => "install",
        Work::Verify => "verify",
        Work::Uninstall => "uninstall",
    }
}

fn now() -> f64 {
    Timestamp::now().as_millisecond() as f64 / 1000.0
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: &M) {
    registry.register(name, help, metric.clone());
}

/// The names under which all of it is told.
fn registry(counted: &Counted) -> Registry {
    let mut own = Registry::with_prefix("bulkhead_node");
    let registry = &mut own;
    add(
        registry,
        "phase",
        "The phase the node is in, 1",
        &counted.phases,
    );
    let help = "When it came to that phase";
    add(
        registry,
        "phase_since_timestamp_seconds",
        help,
        &counted.since,
    );
    let help = "Tries that failed since the last success";
    add(registry, "retries", help, &counted.retries);
    let help = "The version new pods get, 1";
    add(registry, "version", help, &counted.version);
    let help = "Handlers asked of the node, 1 where it was found to serve them";
    add(registry, "handler", help, &counted.handlers);
    let help = "What was looked at before the installation, 1 where it passed";
    add(registry, "preflight", help, &counted.preflight);
    let help = "Time of looks, installations, verifications and removals";
    add(registry, "work_seconds", help, &counted.works);
    let help = "When the node was last found to be as installed";
    add(
        registry,
        "verified_timestamp_seconds",
        help,
        &counted.verified,
    );
    let help = "When a pod of the handler last ran as a trial";
    add(registry, "smoke_timestamp_seconds", help, &counted.smoke);
    let help = "How often that is to be done";
    add(
        registry,
        "verification_interval_seconds",
        help,
        &counted.interval,
    );
    let help = "Installations because the node was not as installed any more";
    add(registry, "mends", help, &counted.mends);
    let help = "Writes of the node's status to the API server";
    add(registry, "status_writes", help, &counted.writes);
    own
}

impl Metrics {
    /// Nothing counted yet.
    pub(crate) fn new() -> Self {
        let counted = Counted {
            phases: Family::default(),
            since: Float::default(),
            retries: Gauge::default(),
            version: Family::default(),
            handlers: Family::default(),
            preflight: Family::default(),
            works: Family::new_with_constructor(seconds),
            verified: Float::default(),
            smoke: Family::default(),
            interval: Float::default(),
            mends: Counter::default(),
            writes: Family::default(),
            hears: AtomicBool::new(false),
        };
        Self {
            registry: Arc::new(registry(&counted)),
            counted: Arc::new(counted),
        }
    }

    /// Whether the watch of the order has told everything once.
    pub(crate) fn hears(&self) {
        self.counted.hears.store(true, Ordering::Relaxed);
    }

    /// What the node's status is, and what is asked of it.
    pub(crate) fn tell(&self, told: &KataNodeStatus, spec: Option<&KataNodeSpec>) {
        let own = &self.counted;
        for (phase, name) in PHASES {
            let label = [("phase", name.to_owned())];
            let is = i64::from(told.phase == phase);
            own.phases.get_or_create(&label).set(is);
        }
        let since = told.since.as_ref().map_or(0, |time| time.0.as_second());
        own.since.set(since as f64);
        own.retries.set(told.retries.into());
        own.version.clear();
        if let Some(version) = &told.version {
            let label = [("version", version.clone())];
            own.version.get_or_create(&label).set(1);
        }
        own.handlers.clear();
        let asked = spec.into_iter().flat_map(|spec| &spec.handlers);
        for name in asked.map(|handler| &handler.name).chain(&told.handlers) {
            let serves = i64::from(told.handlers.contains(name));
            let label = [("handler", name.clone())];
            own.handlers.get_or_create(&label).set(serves);
        }
        own.preflight.clear();
        for check in &told.preflight {
            let label = [("check", check.check.clone())];
            let passed = i64::from(check.passed);
            own.preflight.get_or_create(&label).set(passed);
        }
    }

    /// How often the node is to be verified.
    pub(crate) fn verifies_every(&self, interval: Duration) {
        self.counted.interval.set(interval.as_secs_f64());
    }

    /// A work ended after so long.
    pub(crate) fn worked(&self, work: Work, took: Duration, ended: Ended) {
        let result = match ended {
            Ended::Done => "done",
            Ended::Failed => "failed",
            Ended::Stopped => "stopped",
        };
        let labels = [("work", word(work)), ("result", result)];
        let works = &self.counted.works;
        works.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// The node was found to be as installed; `tried` are the handlers of which
    /// a pod ran for it.
    pub(crate) fn verified(&self, tried: &[String]) {
        let now = now();
        self.counted.verified.set(now);
        for handler in tried {
            let label = [("handler", handler.clone())];
            self.counted.smoke.get_or_create(&label).set(now);
        }
    }

    /// Nothing is installed any more.
    pub(crate) fn removed(&self) {
        self.counted.smoke.clear();
    }

    /// The node is installed again because it differed.
    pub(crate) fn mends(&self) {
        self.counted.mends.inc();
    }

    /// The status was written, or not.
    pub(crate) fn wrote(&self, done: bool) {
        let result = if done { "done" } else { "failed" };
        let label = [("result", result.to_owned())];
        self.counted.writes.get_or_create(&label).inc();
    }
}

impl Telemetry for Metrics {
    fn metrics(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn unready(&self) -> Option<&'static str> {
        let hears = self.counted.hears.load(Ordering::Relaxed);
        (!hears).then_some("the API server has not told this node's order yet")
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_kataconfig::{HandlerSpec, Preflight};

    use super::*;

    fn handler(name: &str) -> HandlerSpec {
        HandlerSpec {
            name: name.to_owned(),
            ..HandlerSpec::default()
        }
    }

    #[test]
    fn a_node_is_told_as_its_status_is() {
        let metrics = Metrics::new();
        let spec = KataNodeSpec {
            handlers: vec![handler("kata"), handler("kata-big")],
            ..KataNodeSpec::default()
        };
        let told = KataNodeStatus {
            phase: NodePhase::Failed,
            version: Some("1.0.0".into()),
            handlers: vec!["kata".into()],
            retries: 3,
            preflight: vec![Preflight {
                check: "disk".into(),
                passed: false,
                message: None,
            }],
            ..KataNodeStatus::default()
        };
        metrics.tell(&told, Some(&spec));
        let text = metrics.metrics().unwrap();
        for line in [
            r#"bulkhead_node_phase{phase="Failed"} 1"#,
            r#"bulkhead_node_phase{phase="Ready"} 0"#,
            r#"bulkhead_node_version{version="1.0.0"} 1"#,
            r#"bulkhead_node_handler{handler="kata"} 1"#,
            r#"bulkhead_node_handler{handler="kata-big"} 0"#,
            r#"bulkhead_node_preflight{check="disk"} 0"#,
            "bulkhead_node_retries 3",
        ] {
            assert!(text.lines().any(|own| own == line), "{line}: {text}");
        }
        // What is gone is not told any more.
        metrics.tell(&KataNodeStatus::default(), None);
        let text = metrics.metrics().unwrap();
        assert!(
            !text.contains("1.0.0") && !text.contains("kata-big"),
            "{text}"
        );
        assert!(text.contains(r#"bulkhead_node_phase{phase="Idle"} 1"#));
    }

    #[test]
    fn alerts_and_dashboards_ask_for_what_is_told() {
        let metrics = Metrics::new();
        metrics.worked(Work::Look, Duration::ZERO, Ended::Stopped);
        metrics.verified(&["kata".to_owned()]);
        metrics.wrote(true);
        metrics.tell(&KataNodeStatus::default(), None);
        let told = metrics.metrics().unwrap();
        let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
        let files = ["prometheus/rules.yaml", "grafana/fleet.json"];
        let asked = files.map(|file| std::fs::read_to_string(deploy.join(file)).unwrap());
        let asked = asked.concat();
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let names = asked.split(|c| !word(c));
        let names: Vec<_> = names.filter(|n| n.starts_with("bulkhead_node_")).collect();
        assert!(names.len() > 6);
        for name in names {
            let found = told.lines().any(|line| {
                let rest = line.strip_prefix(name);
                rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            });
            assert!(found, "`{name}` is asked for and not told: {told}");
        }
    }

    #[test]
    fn hostile_names_stay_one_label() {
        let metrics = Metrics::new();
        let told = KataNodeStatus {
            handlers: vec!["a\"} 1\nbulkhead_node_retries 9".into()],
            ..KataNodeStatus::default()
        };
        metrics.tell(&told, None);
        let text = metrics.metrics().unwrap();
        let lines = text.lines().filter(|line| line.contains("retries 9"));
        let lines: Vec<_> = lines.collect();
        assert!(
            lines
                .iter()
                .all(|line| line.starts_with("bulkhead_node_handler{"))
        );
        assert_eq!(lines.len(), 1, "{text}");
    }

    #[test]
    fn works_and_trials_are_counted() {
        let metrics = Metrics::new();
        metrics.worked(Work::Install, Duration::from_millis(300), Ended::Failed);
        metrics.worked(Work::Install, Duration::from_secs(3), Ended::Done);
        metrics.verified(&["kata".to_owned()]);
        let text = metrics.metrics().unwrap();
        let labels = [r#"work="install""#, r#"result="failed""#];
        let mut counts = text
            .lines()
            .filter(|line| line.starts_with("bulkhead_node_work_seconds_count"))
            .filter(|line| labels.iter().all(|label| line.contains(label)));
        assert!(
            counts.next().is_some_and(|line| line.ends_with(" 1")),
            "{text}"
        );
        let smoke = r#"bulkhead_node_smoke_timestamp_seconds{handler="kata"}"#;
        let at = text.lines().find_map(|line| line.strip_prefix(smoke));
        let at: f64 = at.unwrap().trim().parse().unwrap();
        assert!(now() - at < 60.0);
        metrics.removed();
        assert!(!metrics.metrics().unwrap().contains(smoke));
    }
}

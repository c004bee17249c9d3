//! Pods in the text Prometheus reads: OpenMetrics 1.0.

use std::sync::atomic::AtomicU64;

use bulkhead_status::{Container, Pod, Usage};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

type Float = Gauge<f64, AtomicU64>;
type Seconds = Counter<f64, AtomicU64>;

/// Whose figures. Names come from tenants, so they go through [`label`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPod {
    namespace: String,
    pod: String,
    id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPhase {
    namespace: String,
    pod: String,
    id: String,
    phase: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfContainer {
    namespace: String,
    pod: String,
    id: String,
    container: String,
}

#[derive(Debug, Default)]
struct Families {
    pods: Family<OfState, Gauge>,
    vcpus: Family<OfPod, Gauge>,
    memory: Family<OfPod, Gauge>,
    overhead: Family<OfPod, Gauge>,
    resident: Family<OfPod, Gauge>,
    shim_resident: Family<OfPod, Gauge>,
    phases: Family<OfPhase, Float>,
    cpu: Family<OfContainer, Seconds>,
    used: Family<OfContainer, Gauge>,
    limit: Family<OfContainer, Gauge>,
    processes: Family<OfContainer, Gauge>,
    oom_kills: Family<OfContainer, Counter>,
}

/// All figures of these pods.
pub(super) fn text(pods: &[Pod]) -> Result<String, std::fmt::Error> {
    let families = Families::default();
    for state in ["starting", "running", "ended"] {
        families.pods.get_or_create(&OfState { state }).set(0);
    }
    for pod in pods {
        families.add_pod(pod);
        for container in &pod.containers {
            if let Some(usage) = &container.usage {
                families.add_container(pod, container, usage);
            }
        }
    }
    let mut out = String::new();
    text::encode(&mut out, &families.registry())?;
    Ok(out)
}

impl Families {
    fn add_pod(&self, pod: &Pod) {
        let state = pod.state.as_str();
        self.pods.get_or_create(&OfState { state }).inc();
        let own = labels(pod);
        self.vcpus.get_or_create(&own).set(pod.vcpus.into());
        self.memory.get_or_create(&own).set(number(pod.memory));
        self.overhead.get_or_create(&own).set(number(pod.overhead));
        let resident = pod.monitor_pid.and_then(resident);
        if let Some(bytes) = resident {
            self.resident.get_or_create(&own).set(number(bytes));
        }
        if let Some(bytes) = self::resident(pod.shim_pid) {
            self.shim_resident.get_or_create(&own).set(number(bytes));
        }
        for (phase, took) in &pod.phases {
            let OfPod { namespace, pod, id } = own.clone();
            let phase = label(phase);
            let own = OfPhase {
                namespace,
                pod,
                id,
                phase,
            };
            self.phases.get_or_create(&own).set(*took);
        }
    }

    fn add_container(&self, pod: &Pod, container: &Container, usage: &Usage) {
        let OfPod { namespace, pod, id } = labels(pod);
        let name = container.name.as_ref().unwrap_or(&container.id);
        let own = OfContainer {
            namespace,
            pod,
            id,
            container: label(name),
        };
        self.cpu
            .get_or_create(&own)
            .inc_by(usage.cpu_seconds.max(0.0));
        self.used.get_or_create(&own).set(number(usage.memory));
        self.limit
            .get_or_create(&own)
            .set(number(usage.memory_limit));
        self.processes.get_or_create(&own).set(number(usage.pids));
        self.oom_kills.get_or_create(&own).inc_by(usage.oom_kills);
    }

    fn registry(self) -> Registry {
        let mut all = Registry::with_prefix("bulkhead");
        all.register("pods", "Pods of this host, by state", self.pods);
        all.register("pod_vcpus", "vCPUs of the machine", self.vcpus);
        let bytes = || Unit::Bytes;
        all.register_with_unit("pod_memory", "Memory of the machine", bytes(), self.memory);
        all.register_with_unit(
            "pod_overhead",
            "Memory the host was told to need beside the machine's",
            bytes(),
            self.overhead,
        );
        all.register_with_unit(
            "pod_monitor_resident",
            "Resident memory of the monitor, the guest's included",
            bytes(),
            self.resident,
        );
        all.register_with_unit(
            "pod_shim_resident",
            "Resident memory of the shim",
            bytes(),
            self.shim_resident,
        );
        all.register_with_unit(
            "pod_start_phase",
            "How long a part of the start took",
            Unit::Seconds,
            self.phases,
        );
        all.register_with_unit(
            "container_cpu",
            "CPU time, counted in the guest",
            Unit::Seconds,
            self.cpu,
        );
        all.register_with_unit(
            "container_memory",
            "Memory used, counted in the guest",
            bytes(),
            self.used,
        );
        all.register_with_unit(
            "container_memory_limit",
            "Memory limit; 0: none",
            bytes(),
            self.limit,
        );
        all.register("container_processes", "Processes", self.processes);
        all.register(
            "container_oom_kills",
            "Processes the guest kernel killed for memory",
            self.oom_kills,
        );
        all
    }
}

fn labels(pod: &Pod) -> OfPod {
    let own = pod.kubernetes.as_ref();
    OfPod {
        namespace: own.map(|own| label(&own.namespace)).unwrap_or_default(),
        pod: own.map(|own| label(&own.name)).unwrap_or_default(),
        id: label(&pod.id),
    }
}

/// A label's value. The encoder writes it as it is, so that a quote or a line
/// break would end it. OpenMetrics 1.0, "Escaping".
fn label(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Resident memory of a process, bytes. proc_pid_statm(5).
fn resident(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use bulkhead_status::{Kubernetes, State};

    use super::*;

    /// A pod that tells everything, with a name that tries to be more.
    fn pod() -> Pod {
        let usage = Usage {
            cpu_seconds: 1.5,
            memory: 4096,
            memory_limit: 0,
            pids: 2,
            oom_kills: 1,
        };
        Pod {
            logs: None,
            id: "abc".to_owned(),
            namespace: "k8s.io".to_owned(),
            kubernetes: Some(Kubernetes {
                name: "web\"} 1\nbulkhead_pods 7".to_owned(),
                namespace: "default".to_owned(),
                uid: String::new(),
            }),
            state: State::Running,
            reason: None,
            started: 0,
            vcpus: 2,
            memory: 1 << 29,
            overhead: 1 << 26,
            shim_pid: std::process::id(),
            monitor_pid: Some(std::process::id()),
            phases: vec![("kernel".to_owned(), 0.25)],
            containers: vec![Container {
                log: None,
                id: "c1".to_owned(),
                name: Some("app".to_owned()),
                state: "running".to_owned(),
                exit_code: None,
                usage: Some(usage),
            }],
            volumes: Vec::new(),
        }
    }

    #[test]
    fn alerts_and_dashboards_ask_for_what_is_told() {
        let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
        let told = text(&[pod()]).unwrap();
        let mut count = 0;
        for file in [
            "prometheus/rules.yaml",
            "grafana/fleet.json",
            "grafana/pod.json",
        ] {
            let asked = std::fs::read_to_string(deploy.join(file)).unwrap();
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let names = asked.split(|c| !word(c));
            let names = names.filter(|name| name.starts_with("bulkhead_"));
            // What the operator and the node agents tell, their own tests compare.
            let others = ["bulkhead_operator_", "bulkhead_node_"];
            let others = |name: &&str| others.iter().any(|other| name.starts_with(other));
            for name in names.filter(|name| !others(name)) {
                let found = told.lines().any(|line| {
                    let rest = line.strip_prefix(name);
                    rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                });
                assert!(found, "{file} asks for `{name}`, which is not told: {told}");
                count += 1;
            }
        }
        assert!(count > 15);
    }

    #[test]
    fn names_of_tenants_stay_values_of_labels() {
        let pod = pod();
        let text = text(&[pod]).unwrap();
        let line = |start: &str| text.lines().find(|line| line.starts_with(start));
        assert!(line("bulkhead_pods 7").is_none(), "{text}");
        assert_eq!(
            line("bulkhead_pods{state=\"running\"}"),
            Some("bulkhead_pods{state=\"running\"} 1")
        );
        assert!(
            line("bulkhead_pod_memory_bytes{")
                .unwrap()
                .ends_with("} 536870912")
        );
        assert!(
            line("bulkhead_container_cpu_seconds_total{")
                .unwrap()
                .ends_with("} 1.5")
        );
        let phase = line("bulkhead_pod_start_phase_seconds{").unwrap();
        assert!(
            phase.contains("phase=\"kernel\"") && phase.ends_with("} 0.25"),
            "{phase}"
        );
        assert!(
            line("bulkhead_container_oom_kills_total{")
                .unwrap()
                .ends_with("} 1")
        );
        assert!(text.ends_with("# EOF\n"));
    }
}

//! The two files about a container.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

/// Format of both files; another number is refused.
pub(crate) const FORMAT: u32 = 1;

/// What was asked for. Written once, before anything starts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) format: u32,
    pub(crate) id: String,
    pub(crate) name: String,
    /// Milliseconds since the epoch.
    pub(crate) created: u64,
    pub(crate) rootfs: RootfsSource,
    pub(crate) spec: Spec,
    /// `user[:group]` for the guest to resolve; empty: the spec's ids.
    pub(crate) user: String,
    pub(crate) volumes: Vec<VolumeRecord>,
    /// Guest memory, bytes.
    pub(crate) memory: u64,
    pub(crate) vcpus: u32,
    /// Bytes of the writable layer.
    pub(crate) storage: u64,
    pub(crate) network: NetworkMode,
    /// Published ports, in Podman's syntax.
    pub(crate) ports: Vec<String>,
    /// Name servers given by the user; empty: the host's.
    pub(crate) dns: Vec<String>,
    pub(crate) hostname: String,
    pub(crate) extra_hosts: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) terminal: bool,
    pub(crate) interactive: bool,
    pub(crate) auto_remove: bool,
    pub(crate) stop_signal: u32,
    /// Seconds between the stop signal and SIGKILL.
    pub(crate) stop_timeout: u64,
    pub(crate) keep_log: bool,
    /// "auto", "kvm" or "tcg".
    pub(crate) accel: String,
    /// "auto", "tuned" or "distro".
    pub(crate) kernel: String,
    /// How long the image took, microseconds, for `--timings`.
    pub(crate) image_micros: u64,
}

/// Where the root filesystem comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RootfsSource {
    /// An image of the store.
    Image {
        /// What the user wrote.
        reference: String,
        /// Digest of its configuration.
        id: String,
        /// Where the store is.
        store: PathBuf,
    },
    /// A host directory, shared live.
    Directory(PathBuf),
}

impl RootfsSource {
    /// For a table's IMAGE column.
    pub(crate) fn display(&self) -> String {
        match self {
            Self::Image { reference, .. } => reference.clone(),
            Self::Directory(path) => path.display().to_string(),
        }
    }
}

/// A host directory or file in the container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
    /// OCI mount option words, propagation and such.
    #[serde(default)]
    pub(crate) options: Vec<String>,
}

/// How the sandbox reaches the world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NetworkMode {
    /// Loopback only.
    None,
    /// User-mode, through passt.
    Passt,
    /// The interfaces of an existing network namespace.
    Namespace(PathBuf),
}

impl std::str::FromStr for NetworkMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "passt" => Ok(Self::Passt),
            "host" => Err(
                "a sandbox has its own kernel and cannot use the host's network; \
                           use `passt` with --publish, or `ns:PATH`"
                    .to_owned(),
            ),
            _ => match text.strip_prefix("ns:") {
                Some(path) if path.starts_with('/') => Ok(Self::Namespace(path.into())),
                _ => Err(format!(
                    "`{text}` is no network; write `none`, `passt` or `ns:/path/to/netns`"
                )),
            },
        }
    }
}

/// Where a container is in its life.
///
/// ```text
///   starting ──▶ running ◀──▶ paused
///       │           │            │
///       └───────────┴────────────┴──▶ exited
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Status {
    /// The machine boots or the container is being made.
    Starting,
    /// Its command runs.
    Running,
    /// Its virtual processors are stopped.
    Paused,
    /// It is over; the exit code says how.
    Exited,
}

impl Status {
    /// For people.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Exited => "exited",
        }
    }
}

/// What became of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) format: u32,
    pub(crate) status: Status,
    /// Host pids; 0: none.
    pub(crate) supervisor_pid: u32,
    pub(crate) vmm_pid: u32,
    /// Milliseconds since the epoch; 0: not yet.
    pub(crate) started: u64,
    pub(crate) finished: u64,
    pub(crate) exit_code: Option<i32>,
    pub(crate) oom_killed: bool,
    /// What died and why, where it was not the command itself.
    pub(crate) reason: Option<String>,
    pub(crate) guest_kernel: String,
    /// "kvm", or "tcg" with the reason.
    pub(crate) accelerator: String,
    /// Phases of the start, microseconds, in order.
    pub(crate) timings: Vec<(String, u64)>,
}

impl State {
    /// The first state of every container.
    pub(crate) fn starting() -> Self {
        Self {
            format: FORMAT,
            status: Status::Starting,
            supervisor_pid: 0,
            vmm_pid: 0,
            started: 0,
            finished: 0,
            exit_code: None,
            oom_killed: false,
            reason: None,
            guest_kernel: String::new(),
            accelerator: String::new(),
            timings: Vec::new(),
        }
    }

    /// Ends it.
    pub(crate) fn exit(&mut self, code: i32, reason: Option<String>) {
        self.status = Status::Exited;
        self.finished = now();
        self.exit_code = Some(code);
        self.reason = reason;
    }

    /// Has its supervisor to be alive?
    pub(crate) fn is_live(&self) -> bool {
        self.status != Status::Exited
    }

    /// "Up 3 minutes", "Exited (0) 2 hours ago".
    pub(crate) fn phrase(&self) -> String {
        match (self.status, self.exit_code) {
            (Status::Exited, code) => format!(
                "Exited ({}) {} ago{}",
                code.unwrap_or(255),
                age(self.finished),
                self.reason
                    .as_deref()
                    .map(|r| format!(": {}", first_line(r)))
                    .unwrap_or_default(),
            ),
            (Status::Running, _) => format!("Up {}", age(self.started)),
            (Status::Paused, _) => format!("Up {} (paused)", age(self.started)),
            (Status::Starting, _) => "Starting".to_owned(),
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Milliseconds since the epoch.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// How long ago a time in milliseconds was, in the largest fitting unit.
pub(crate) fn age(millis: u64) -> String {
    let seconds = Duration::from_millis(now().saturating_sub(millis)).as_secs();
    let (count, unit) = match seconds {
        0..=119 => (seconds, "second"),
        120..=7199 => (seconds / 60, "minute"),
        7200..=172_799 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_parsed_and_host_is_refused_with_the_way_out() {
        assert_eq!("none".parse(), Ok(NetworkMode::None));
        assert_eq!(
            "ns:/run/x".parse(),
            Ok(NetworkMode::Namespace("/run/x".into()))
        );
        let text = "host".parse::<NetworkMode>().unwrap_err();
        assert!(text.contains("--publish"), "{text}");
        assert!("ns:relative".parse::<NetworkMode>().is_err());
    }

    #[test]
    fn an_exit_is_told_with_its_reason() {
        let mut state = State::starting();
        state.exit(
            137,
            Some("the virtual machine monitor was killed\nmore".into()),
        );
        assert!(
            state
                .phrase()
                .starts_with("Exited (137) 0 seconds ago: the virtual machine")
        );
        assert!(!state.phrase().contains("more"));
    }
}

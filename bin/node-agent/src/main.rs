//! The operator's arm on one node: does what the node's `KataNode` orders, and
//! tells how it went.
//!
//! ```text
//!   KataNode.spec ──watch──▶ agent ──▶ order::next ──▶ machine (the installer)
//!   KataNode.status ◀─apply──  │  ◀──────── steps, results ───────┘
//! ```
//!
//! One task knows, decides and writes; the installer works on a thread beside
//! it. What was begun is in the installer's journal, so the agent may die at
//! any point.

mod agent;
mod machine;
mod metrics;
mod order;
mod words;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

const EXAMPLES: &str = "Examples:
  # In the pod of a DaemonSet, the machine's root mounted at /host:
  bulkhead-node-agent --node-name \"$NODE_NAME\" --host-root /host --payload /payload
  # On the node itself, against a cluster elsewhere:
  bulkhead-node-agent --node-name worker-1 --kubeconfig ~/.kube/config
  # Where no systemd runs containerd, and there is no KVM (slow):
  bulkhead-node-agent --node-name worker-1 --restart-with /etc/restart --allow-emulation";

/// Does what the operator orders for one node, and tells how it went.
#[derive(Debug, Parser)]
#[command(name = "bulkhead-node-agent", version, about, after_help = EXAMPLES)]
struct Cli {
    /// The node's name in the cluster
    #[arg(long, env = "NODE_NAME", value_parser = node_name)]
    node_name: String,
    /// How the API server is reached [default: KUBECONFIG, else the pod's service account]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Where metrics (/metrics) and probes (/healthz, /readyz) are served [default: nowhere]
    #[arg(long, value_name = "ADDRESS")]
    metrics_address: Option<SocketAddr>,
    #[command(flatten)]
    machine: MachineOptions,
}

/// Which machine, how its runtime is reached, and what is installed.
#[derive(Debug, Clone, clap::Args)]
struct MachineOptions {
    /// The machine's `/`, where it is mounted elsewhere
    #[arg(long, value_name = "DIR", default_value = "/")]
    host_root: PathBuf,
    /// What to install [default: the programs beside this one, and its guest]
    #[arg(long, value_name = "DIR")]
    payload: Option<PathBuf>,
    /// The payload's version, as a KataConfig names it
    #[arg(long, value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
    payload_release: String,
    /// The runtime's CRI socket [default: where it is by default]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The runtime's version, such as 1.7 [default: it is asked]
    #[arg(long, value_name = "VERSION")]
    runtime_version: Option<String>,
    /// The program that checks the runtime's configuration [default: `containerd` or `crio` on
    /// PATH when --host-root is `/`, else none]
    #[arg(long, value_name = "PROGRAM")]
    check_with: Option<PathBuf>,
    /// A program that restarts the runtime, with its name as argument [default: systemd]
    #[arg(long, value_name = "PROGRAM")]
    restart_with: Option<PathBuf>,
    /// Setting of all handlers on this node; a KataConfig's own go before it
    #[arg(long = "set", value_name = "SETTING=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Take a machine without usable virtualization: pods are slow
    #[arg(long)]
    allow_emulation: bool,
    /// Image of the pods that are tried; its command has to wait for ever [default: the
    /// runtime's sandbox image]
    #[arg(long, value_name = "IMAGE")]
    smoke_image: Option<String>,
}

/// A node's name is a DNS subdomain (RFC 1123); it becomes part of a path.
fn node_name(text: &str) -> Result<String, String> {
    let label = |part: &str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (1..=63).contains(&part.len())
            && part.bytes().all(plain)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if text.len() > 253 || !text.split('.').all(label) {
        return Err("a node's name has a-z, 0-9, `-` and `.`, 253 at most".into());
    }
    Ok(text.to_owned())
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("give SETTING=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Why the agent ends.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// No way to the API server is known.
    #[error("no cluster to work for: run in a pod, or give --kubeconfig")]
    Infer(#[source] kube::config::InferConfigError),
    /// The file that was given is none.
    #[error("`{}` shows no way to a cluster", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// The client cannot be set up.
    #[error("the client of the API server cannot be set up")]
    Client(#[source] kube::Error),
    /// The address of the metrics is not to be had.
    #[error(transparent)]
    Listen(#[from] bulkhead_telemetry::ListenError),
    /// The kernel gives no event queue, thread or signal.
    #[error("the kernel refuses what is needed to begin")]
    Kernel(#[source] std::io::Error),
    /// The machine has no identity.
    #[error("this machine cannot be told from others")]
    Machine(#[source] Box<machine::Refusal>),
    /// The watch ended, which it never should.
    #[error("the watch of the KataNode ended")]
    WatchEnded,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            // The client's own words about what the agent reports anyway.
            EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| EnvFilter::new("info,kube_client=off")),
        )
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead-node-agent: {}", bulkhead_installer::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Kernel)?;
    let ended = runtime.block_on(agent::run(cli));
    // Work that did not heed the stop ends with the process, as by a kill.
    runtime.shutdown_background();
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_node_names_are_refused() {
        for good in ["worker-1", "ip-10-0-0-1.eu.example"] {
            assert!(node_name(good).is_ok(), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", "A", "a,b", "a=b", "a/b", "..", "-a", "a-", "a\n", &long] {
            assert!(node_name(bad).is_err(), "{bad}");
        }
    }
}

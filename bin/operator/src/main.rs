//! The operator: makes a cluster's nodes what its `KataConfig`s ask for.
//!
//! ```text
//!   watches ──▶ cluster (what is known) ──▶ rollout::plan ──▶ apply
//!     ▲             ▲                                           │
//!     │             └── what the writes answered ───────────────┤
//!     └──────────────────── API server ◀────────────────────────┘
//! ```
//!
//! One task owns what is known, decides and writes; a lease keeps a second
//! operator from doing the same. Nothing is polled.

mod apply;
mod cluster;
mod control;
mod machine_config;
mod metrics;
mod views;
mod watch;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Installs, verifies, upgrades and removes Bulkhead on a cluster's nodes.
#[derive(Debug, Parser)]
#[command(name = "bulkhead-operator", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the controller until it is told to stop.
    #[command(after_help = RUN_EXAMPLES)]
    Run(Run),
    /// Prints the definitions of KataConfig and KataNode.
    #[command(
        after_help = "Examples:\n  bulkhead-operator crds | kubectl apply --server-side -f -"
    )]
    Crds,
}

const RUN_EXAMPLES: &str = "Examples:
  # In a pod, with its service account:
  bulkhead-operator run
  # From a workstation, against the current context, offering version 1.2.0:
  bulkhead-operator run --release stable=1.2.0 --metrics-address 127.0.0.1:8080";

/// How the controller runs.
#[derive(Debug, Clone, clap::Args)]
struct Run {
    /// Namespace of the lease that keeps a second operator idle.
    #[arg(long, env = "POD_NAMESPACE", default_value = "bulkhead-system")]
    namespace: String,
    /// Name under which this operator holds the lease.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// Where metrics (/metrics) and probes (/healthz, /readyz) are served.
    #[arg(long, default_value = "[::]:8080")]
    metrics_address: SocketAddr,
    /// The version a channel offers, as CHANNEL=VERSION; may be given again.
    #[arg(long = "release", value_parser = release, value_name = "CHANNEL=VERSION",
          default_value = concat!("stable=", env!("CARGO_PKG_VERSION")))]
    releases: Vec<(String, String)>,
    /// The system's extension that brings the runtime, where OpenShift's Machine
    /// Config Operator installs it.
    #[arg(long, env = "SANDBOXED_CONTAINERS_EXTENSION", default_value = "sandboxed-containers",
          value_parser = extension)]
    extension: String,
}

fn extension(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".+_-".contains(&b);
    match (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "`{text}`: letters, digits and . + _ - only, 64 at most"
        )),
    }
}

fn release(text: &str) -> Result<(String, String), String> {
    let (channel, version) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not CHANNEL=VERSION, as stable=1.2.0"))?;
    let plain = |part: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b".+_-".contains(&b);
        (1..=64).contains(&part.len()) && part.bytes().all(allowed)
    };
    if !plain(channel) || !plain(version) {
        return Err(format!(
            "`{text}`: letters, digits and . + _ - only, 64 at most"
        ));
    }
    Ok((channel.to_owned(), version.to_owned()))
}

/// Why the operator ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No way to the API server is known.
    #[error("no cluster to work on: run in a pod, or set KUBECONFIG")]
    Config(#[source] kube::config::InferConfigError),
    /// The client cannot be set up.
    #[error("the client of the API server cannot be set up")]
    Client(#[source] kube::Error),
    /// The lease cannot be handled.
    #[error(
        "the lease `{namespace}/bulkhead-operator` cannot be set up; does the namespace exist?"
    )]
    Lease {
        /// Its namespace.
        namespace: String,
        /// What is wrong.
        #[source]
        source: kube_lease_manager::LeaseManagerError,
    },
    /// The address of the metrics is not to be had.
    #[error(transparent)]
    Listen(#[from] bulkhead_telemetry::ListenError),
    /// Signals cannot be waited for.
    #[error("signals cannot be waited for")]
    Signals(#[source] std::io::Error),
    /// The definitions cannot be written.
    #[error("the definitions cannot be written")]
    Print(#[source] std::io::Error),
    /// A watch ended, which it never should.
    #[error("the watches of the API server ended")]
    WatchesEnded,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            // The client's own words about what the operator reports anyway.
            EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| EnvFilter::new("info,kube_client=off")),
        )
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
    let done = match cli.command {
        Command::Crds => print_crds(),
        Command::Run(run) => start(run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("bulkhead-operator: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(source) = cause {
                text = format!("{text}: {source}");
                cause = source.source();
            }
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn start(run: Run) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Error::Signals)?;
    runtime.block_on(control::run(run))
}

fn print_crds() -> Result<(), Error> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    for crd in bulkhead_kataconfig::crds() {
        let text = serde_saphyr::to_string(&crd).map_err(std::io::Error::other);
        text.and_then(|text| write!(out, "---\n{text}"))
            .map_err(Error::Print)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_or_refused() {
        let own = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            release("stable=1.2.0-rc.1+5"),
            Ok(own("stable", "1.2.0-rc.1+5"))
        );
        for text in ["stable", "=1", "stable=", "a b=1", "stable=../1"] {
            assert!(release(text).is_err(), "{text}");
        }
    }
}

//! Tries the operator on a cluster, from installation to removal, and leaves
//! the cluster as it was: `cargo xtask e2e-cluster`.
//!
//! ```text
//!   record ─▶ apply deploy/ ─▶ KataConfig ─▶ Ready ─▶ a pod ─▶ delete ─▶ Blocked
//!     └──────────────── compared at the end ◀── take all away ◀── the pod ends ┘
//! ```

mod objects;
mod record;
mod stand_in;
mod story;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// Tries the operator on a cluster, and leaves the cluster as it was.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// The cluster [default: KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The operator's image, where the cluster can pull it
    #[arg(long, value_name = "IMAGE", required_unless_present = "stand_in")]
    operator_image: Option<String>,
    /// The node agent's image
    #[arg(long, value_name = "IMAGE", required_unless_present = "stand_in")]
    node_agent_image: Option<String>,
    /// Image of the pod that is tried, with a shell and `uname`
    #[arg(
        long,
        value_name = "IMAGE",
        default_value = "docker.io/library/busybox:stable"
    )]
    pod_image: String,
    /// Nodes that are used: the first workers that are ready
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// How long a part may take, seconds
    #[arg(long, default_value_t = 900)]
    patience: u64,
    /// Arguments of the node agent beside those in deploy/, as --allow-emulation
    #[arg(long = "agent-arg", value_name = "ARG", allow_hyphen_values = true)]
    agent_args: Vec<String>,
    /// The cluster has no nodes: make one, run the programs beside this one in place of images,
    /// and say what its kubelet would
    #[arg(long, conflicts_with_all = ["operator_image", "node_agent_image", "agent_args"])]
    stand_in: bool,
}

impl Cli {
    fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }
}

const EXAMPLES: &str = "Examples:
  # On a cluster that can pull these:
  cargo xtask e2e-cluster -- --operator-image REGISTRY/bulkhead-operator:0.1.0 \\
    --node-agent-image REGISTRY/bulkhead-node-agent:0.1.0 --nodes 2
  # Without a cluster, against the test API server:
  cargo xtask e2e-cluster --stand-in";

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The cluster cannot be reached as asked.
    #[error("no cluster to try: give --kubeconfig, or set KUBECONFIG")]
    Kubeconfig(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The API server refused something.
    #[error("the API server refused to {what}")]
    Api {
        /// What was asked of it.
        what: String,
        /// Its answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// Something is in the way.
    #[error("{0}")]
    Unsuitable(String),
    /// Something did not come.
    #[error("{what} did not come within {seconds} s: {seen}")]
    Late {
        /// What.
        what: String,
        /// How long it was waited for.
        seconds: u64,
        /// What was there instead.
        seen: String,
    },
    /// Something is not as it has to be.
    #[error("{0}")]
    Wrong(String),
    /// A file or a program of this machine.
    #[error("`{what}` cannot be used")]
    Local {
        /// Which.
        what: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// As a function for `map_err`.
    fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api {
            what,
            source: Box::new(source),
        }
    }

    fn local<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        what: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Local {
            what,
            source: source.into(),
        }
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match story::run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(errors) => {
            for error in errors {
                eprintln!("bulkhead-cluster-e2e: {}", chain(&error));
            }
            ExitCode::FAILURE
        }
    }
}

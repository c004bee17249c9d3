//! What people ask a cluster about Bulkhead: `kubectl bulkhead …`, also as
//! `bulkhead cluster …`. It reads; nothing in the cluster is changed.

mod collect;
mod explain;
mod fleet;
mod redact;
mod status;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::fleet::Fleet;

/// Shows how a cluster's nodes get Bulkhead.
#[derive(Debug, Parser)]
#[command(name = "kubectl-bulkhead", version, about, after_help = EXAMPLES)]
struct Cli {
    /// File that says how to reach the cluster [default: as kubectl's]
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of that file
    #[arg(long, global = true)]
    context: Option<String>,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  kubectl bulkhead status --watch        until nothing is left to do
  kubectl bulkhead plan                  what happens next to which node
  kubectl bulkhead explain worker-1      why it is where it is, and what to do
  kubectl bulkhead collect               diagnostics, without secrets
  bulkhead cluster status                the same program";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show each KataConfig and its nodes
    Status {
        /// Output format
        #[arg(long, value_enum, default_value_t)]
        format: Format,
        /// Go on until nothing is left to do
        #[arg(long, short)]
        watch: bool,
    },
    /// Show what the next steps do: nodes, restarts, pods in the way
    Plan {
        /// Output format
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Say why a node is where it is, and what to do
    Explain {
        /// The node
        node: String,
        /// Output format
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Write what helps to find a fault into an archive, without secrets
    Collect {
        /// The archive [default: bulkhead-cluster-TIME.tar.gz]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Namespace of the operator and the agents
        #[arg(long, short, default_value = "bulkhead-system")]
        namespace: String,
    },
    /// Print a completion script for a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write man pages
    #[command(hide = true)]
    Man {
        /// Directory to write them to
        dir: PathBuf,
    },
}

/// Output for people or programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Table,
    Json,
}

/// Why a command ends without what was asked.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The file that says where the cluster is cannot be used.
    #[error("no cluster to ask: name its file with --kubeconfig or KUBECONFIG")]
    Kubeconfig(#[source] kube::config::KubeconfigError),
    /// Nothing says where the cluster is.
    #[error("no cluster to ask: name its file with --kubeconfig or KUBECONFIG")]
    Infer(#[source] kube::config::InferConfigError),
    /// The client cannot be set up.
    #[error("the client of the API server cannot be set up")]
    Client(#[source] kube::Error),
    /// The API server does not say.
    #[error("the cluster's {what} cannot be read; are the operator's definitions applied?")]
    Read {
        /// What was asked for.
        what: &'static str,
        /// What it says.
        #[source]
        source: kube::Error,
    },
    /// A node that is not there.
    #[error("there is no node `{0}`; `kubectl get nodes` lists them")]
    NoNode(String),
    /// A file cannot be written.
    #[error("`{}` cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: std::io::Error,
    },
    /// The output cannot be written.
    #[error("the output cannot be written")]
    Print(#[source] std::io::Error),
    /// The watch of the API server ended.
    #[error("the API server stopped telling")]
    WatchEnded,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads no further has what it wanted.
        Err(Error::Print(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            let mut text = format!("error: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(source) = cause {
                text = format!("{text}: {source}");
                cause = source.source();
            }
            eprintln!("{}", text::plain(&text));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), Error> {
    match &cli.command {
        Command::Completion { shell } => {
            let mut out = std::io::stdout();
            clap_complete::generate(*shell, &mut Cli::command(), "kubectl-bulkhead", &mut out);
            return Ok(());
        }
        Command::Man { dir } => {
            let written = std::fs::create_dir_all(dir)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
            let path = dir.clone();
            return written.map_err(|source| Error::Write { path, source });
        }
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Print)?;
    runtime.block_on(ask(cli))
}

async fn ask(cli: Cli) -> Result<(), Error> {
    let client = client(cli.kubeconfig, cli.context).await?;
    match cli.command {
        Command::Status { watch: true, .. } => status::watch(&client).await,
        Command::Status { format, .. } => {
            let fleet = Fleet::read(&client).await?;
            text::print(&match format {
                Format::Table => status::table(&fleet),
                Format::Json => status::json(&fleet),
            })
        }
        Command::Plan { format } => {
            let fleet = Fleet::read(&client).await?;
            text::print(&match format {
                Format::Table => status::plan(&fleet),
                Format::Json => status::plan_json(&fleet),
            })
        }
        Command::Explain { node, format } => {
            let fleet = Fleet::read(&client).await?;
            let found = fleet.node(&client, &node).await?;
            let explained = explain::explain(&fleet, &found.ok_or(Error::NoNode(node))?);
            text::print(&match format {
                Format::Table => explained.to_string(),
                Format::Json => text::json(&explained),
            })
        }
        Command::Collect { output, namespace } => {
            let path = collect::collect(&client, output, &namespace).await?;
            text::print(&format!("{}\n", path.display()))
        }
        Command::Completion { .. } | Command::Man { .. } => Ok(()),
    }
}

async fn client(kubeconfig: Option<PathBuf>, context: Option<String>) -> Result<Client, Error> {
    let options = KubeConfigOptions {
        context,
        ..KubeConfigOptions::default()
    };
    let config = match (kubeconfig, &options.context) {
        (Some(path), _) => {
            let file = Kubeconfig::read_from(path).map_err(Error::Kubeconfig)?;
            let config = Config::from_custom_kubeconfig(file, &options).await;
            config.map_err(Error::Kubeconfig)?
        }
        (None, Some(_)) => Config::from_kubeconfig(&options)
            .await
            .map_err(Error::Kubeconfig)?,
        (None, None) => Config::infer().await.map_err(Error::Infer)?,
    };
    Client::try_from(config).map_err(Error::Client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}

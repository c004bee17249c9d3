//! What Podman, and whoever else calls an OCI runtime, types.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{FormatOption, Name};

/// What runc takes before the verb.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Also write errors of this command to a file
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// How
    #[arg(long, global = true, hide = true, value_enum, default_value_t)]
    pub(crate) log_format: LogFormat,
    /// The control groups are systemd's
    #[arg(long, global = true, hide = true)]
    pub(crate) systemd_cgroup: bool,
    /// Configuration of machines that `create` makes [default:
    /// /etc/bulkhead/config.toml, if it is there]
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub(crate) machine_config: Option<PathBuf>,
}

/// The lines of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

const CREATE_EXAMPLES: &str = "Podman calls this; see docs/guides/podman.md. By hand:
  mkdir -p demo/rootfs && tar -C demo/rootfs -xf rootfs.tar && (cd demo && runc spec)
  bulkhead create --bundle demo demo && bulkhead start demo
  bulkhead delete demo";

/// The verbs of the OCI runtime spec.
#[derive(Debug, Subcommand)]
pub(crate) enum OciCommand {
    /// Make a container of an OCI bundle, for Podman
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateOptions),
    /// Let a container of `create` run
    Start(Name),
    /// Print what the OCI runtime spec says of a container of `create`
    State(Name),
    /// Remove a container of `create`
    Delete {
        /// One that runs too: it is killed. One that is not there is no error
        #[arg(short, long)]
        force: bool,
        #[command(flatten)]
        name: Name,
    },
    /// Change the limits of a container of `create`
    Update {
        /// `linux.resources` of the OCI runtime spec, as JSON
        #[arg(short, long, value_name = "FILE")]
        resources: PathBuf,
        #[command(flatten)]
        name: Name,
    },
    /// List the containers of `create`
    List(FormatOption),
    /// Print which parts of the OCI runtime spec there are
    Features,
}

#[derive(Debug, Args)]
pub(crate) struct CreateOptions {
    /// Directory of `config.json`
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Write the id of the process that stands for the container to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Who takes the container's terminal
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Means nothing here: the root is changed in the guest
    #[arg(long, hide = true)]
    pub(crate) no_pivot: bool,
    /// Means nothing here: keyrings are the guest's
    #[arg(long, hide = true)]
    pub(crate) no_new_keyring: bool,
    /// Descriptors cannot be handed to another kernel
    #[arg(long, hide = true, default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Id of the container
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// What callers of an OCI runtime say of a further process.
#[derive(Debug, Args)]
pub(crate) struct ExecAsked {
    /// Run `process` of the OCI runtime spec, as JSON
    #[arg(short, long, hide = true, value_name = "FILE")]
    pub(crate) process: Option<PathBuf>,
    /// Write the id of the process that stands for it to a file
    #[arg(long, hide = true, value_name = "FILE", requires = "process")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Who takes its terminal
    #[arg(long, hide = true, value_name = "SOCKET", requires = "process")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Descriptors cannot be handed to another kernel
    #[arg(long, hide = true, default_value_t = 0, requires = "process")]
    pub(crate) preserve_fds: u32,
}

//! `bulkhead node …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::FormatOption;

const EXAMPLES: &str = "Examples:
  bulkhead node preflight                       can this machine take it
  bulkhead node install                         under the handler `kata`, then try a pod
  bulkhead node install --handler kata --handler kata-big --set kata-big:memory_mib=4096
  bulkhead node install --runtime podman        then: podman --runtime kata run …
  bulkhead node verify --smoke --format json
  bulkhead node uninstall";

const CODES: &str = "Exit codes: 0 as installed; 10 nothing is installed; 11 a change was
interrupted; 12 files differ; 13 the runtime's configuration lacks the handlers;
14 a handler runs no pod; 125 it could not be looked at";

const INSTALL_CODES: &str = "Exit codes: 0 done; 20 the machine cannot take it; 21 it failed and
what was before is back; 22 it failed and could not be undone yet; 23 pods run;
125 anything else, before something was changed";

/// Install on this machine, for containerd, CRI-O or Podman.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum NodeCommand {
    /// Look whether this machine can take it, and why not
    Preflight(InstallOptions),
    /// Install or upgrade, configure the container runtime, and try a pod
    #[command(after_help = INSTALL_CODES)]
    Install(InstallOptions),
    /// Compare what is installed with what was
    #[command(after_help = CODES)]
    Verify(VerifyOptions),
    /// Remove everything and restore the configuration
    #[command(after_help = INSTALL_CODES)]
    Uninstall(UninstallOptions),
    /// Show versions, who uses them, and handlers
    Status(StatusOptions),
}

/// Which machine, and how its runtime is reached.
#[derive(Debug, Args)]
pub(crate) struct MachineOptions {
    /// The machine's `/`, where it is mounted elsewhere
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) host_root: PathBuf,
    /// The runtime's CRI socket [default: where it is by default]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The program that checks the runtime's configuration [default: `containerd` or `crio` on
    /// PATH when --host-root is `/`, else none]
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) check_with: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) format: FormatOption,
}

/// Who restarts the runtime; systemd when nothing is said.
#[derive(Debug, Args)]
pub(crate) struct RestartOptions {
    /// A program that restarts it, with its name as argument
    #[arg(long, value_name = "PROGRAM", conflicts_with = "no_restart")]
    pub(crate) restart_with: Option<PathBuf>,
    /// Leave the restart to me; nothing is tried then
    #[arg(long)]
    pub(crate) no_restart: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InstallOptions {
    #[command(flatten)]
    pub(crate) machine: MachineOptions,
    #[command(flatten)]
    pub(crate) restart: RestartOptions,
    /// What to install [default: the programs beside this one, and its guest]
    #[arg(long, value_name = "DIR")]
    pub(crate) payload: Option<PathBuf>,
    /// Name pods ask for; all that are wanted [default: kata]
    #[arg(long = "handler", value_name = "NAME")]
    pub(crate) handlers: Vec<String>,
    /// Setting of all handlers, or of one
    #[arg(long = "set", value_name = "[HANDLER:]SETTING=VALUE")]
    pub(crate) settings: Vec<String>,
    /// The container runtime [default: the one that is there]
    #[arg(long, value_enum)]
    pub(crate) runtime: Option<RuntimeChoice>,
    /// Its version, such as 1.7 [default: it is asked]
    #[arg(long, value_name = "VERSION")]
    pub(crate) runtime_version: Option<String>,
    /// Take a machine without usable virtualization: pods are slow
    #[arg(long)]
    pub(crate) allow_emulation: bool,
    #[command(flatten)]
    pub(crate) smoke: SmokeOptions,
    /// Do not try a pod of each handler
    #[arg(long)]
    pub(crate) no_smoke: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SmokeOptions {
    /// Image of the pods that are tried; its command has to wait for ever [default: the
    /// runtime's sandbox image]
    #[arg(long, value_name = "IMAGE")]
    pub(crate) smoke_image: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyOptions {
    #[command(flatten)]
    pub(crate) machine: MachineOptions,
    /// Try a pod of each handler
    #[arg(long)]
    pub(crate) smoke: bool,
    #[command(flatten)]
    pub(crate) image: SmokeOptions,
}

#[derive(Debug, Args)]
pub(crate) struct UninstallOptions {
    #[command(flatten)]
    pub(crate) machine: MachineOptions,
    #[command(flatten)]
    pub(crate) restart: RestartOptions,
    /// Even while pods run: they lose their programs
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusOptions {
    #[command(flatten)]
    pub(crate) machine: MachineOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuntimeChoice {
    Containerd,
    Crio,
    K3s,
    Rke2,
    K0s,
    Microk8s,
    Podman,
}

//! What a user can type.

mod direct_volume;
pub(crate) mod node;
pub(crate) mod oci;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use direct_volume::DirectVolumeCommand;

use crate::spec::ContainerOptions;

/// Run OCI containers, each in its own virtual machine with its own kernel.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, propagate_version = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// Directory of containers and images [default: /var/lib/bulkhead for
    /// root, else below XDG_DATA_HOME]
    #[arg(long, global = true, env = "BULKHEAD_ROOT", value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Say more about what happens
    #[arg(long, global = true)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) oci: oci::Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "Examples:
  bulkhead run --rm oci:./alpine uname -r       a command in its own kernel
  bulkhead run -it oci:./debian bash            a shell
  bulkhead run -d --name web -p 8080:80 oci:./nginx
  bulkhead exec -it web sh                      a second process in it
  bulkhead check                                can this host do it, how fast";

/// One verb each.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command in a new container
    Run(Box<RunOptions>),
    /// Run a command in a running container
    Exec(ExecOptions),
    /// Copy files between a running container and this host
    Cp(CpOptions),
    /// List containers
    Ps(PsOptions),
    /// Show a container's output
    Logs(LogsOptions),
    /// Connect to a running container's stdio
    Attach(AttachOptions),
    /// Stop containers: their stop signal, then SIGKILL
    Stop(StopOptions),
    /// Send a signal to containers
    Kill(KillOptions),
    /// Wait until containers end and print their exit codes
    Wait(Names),
    /// Remove containers
    Rm(RmOptions),
    /// Freeze a container's virtual machine
    Pause(Names),
    /// Let a paused container run again
    #[command(visible_alias = "resume")]
    Unpause(Names),
    /// Show everything known about containers, as JSON
    Inspect(Names),
    /// Show what containers use
    Stats(StatsOptions),
    /// List a container's processes, by their pids in the guest
    Top(Name),
    /// Show what happened to containers
    Events(EventsOptions),
    /// Manage images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Manage guest kernels
    #[command(subcommand)]
    Guest(GuestCommand),
    /// Look into a pod's guest, outside of its containers
    #[command(after_help = DEBUG_EXAMPLES)]
    Debug(DebugOptions),
    /// List the pods of this host, which containerd made
    #[command(after_help = PODS_EXAMPLES)]
    Pods(PodsOptions),
    /// Serve what the pods of this host use, for Prometheus
    #[command(after_help = MONITOR_EXAMPLES)]
    Monitor(MonitorOptions),
    /// Check or explain the configuration of pods
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Leave a volume's disk to the guest that mounts it (for storage drivers)
    #[command(subcommand)]
    DirectVolume(DirectVolumeCommand),
    /// Install on this machine, for containerd, CRI-O or Podman
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Show how a cluster's nodes get Bulkhead (executes kubectl-bulkhead)
    #[command(disable_help_flag = true)]
    Cluster {
        /// What kubectl-bulkhead is asked; --help says what there is
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "ARGUMENT"
        )]
        arguments: Vec<std::ffi::OsString>,
    },
    #[command(flatten)]
    Oci(oci::OciCommand),
    /// Can this host run containers, how fast, and what to fix
    Check(CheckOptions),
    /// Print the versions of everything involved
    Version(FormatOption),
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
pub(crate) enum Format {
    #[default]
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct FormatOption {
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Name {
    /// Name, id, or beginning of an id
    #[arg(value_name = "CONTAINER")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Names {
    /// Names, ids, or beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

const RUN_EXAMPLES: &str = "IMAGE is one of
  oci:PATH[:TAG]              an OCI layout directory
  oci-archive:PATH[:TAG]      a tar of one
  docker-archive:PATH[:TAG]   what `docker save` writes

Examples:
  bulkhead run --rm oci:./alpine uname -r
  bulkhead run -d --name db -p 5432:5432 oci:./postgres
  bulkhead run --rm --privileged oci:./tools bpftool prog list
  bulkhead run --rm --timings oci:./alpine true";

#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) container: ContainerOptions,
    /// Name of the container [default: made up]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Run in the background and print the id
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Remove the container when it ends
    #[arg(long)]
    pub(crate) rm: bool,
    /// Size of the writable layer
    #[arg(long, value_name = "SIZE", default_value = "10G")]
    pub(crate) storage: crate::spec::ByteSize,
    /// Network: `none`, `passt` (user-mode) or `ns:/path/to/netns`
    #[arg(long, default_value = "passt", value_name = "NETWORK")]
    pub(crate) network: crate::state::record::NetworkMode,
    /// Publish a port of the container: [[IP:]HOST:]CONTAINER[/udp]
    #[arg(short, long, value_name = "PORT")]
    pub(crate) publish: Vec<String>,
    /// Name server for the container
    #[arg(long, value_name = "IP")]
    pub(crate) dns: Vec<std::net::IpAddr>,
    /// Further line of /etc/hosts
    #[arg(long, value_name = "HOST:IP")]
    pub(crate) add_host: Vec<String>,
    /// Use a host directory as the root filesystem; IMAGE is then left out
    #[arg(long, value_name = "DIR")]
    pub(crate) rootfs: Option<PathBuf>,
    /// Get the image: `missing` (not in the store), `always`, `never`
    #[arg(long, value_enum, default_value_t)]
    pub(crate) pull: PullPolicy,
    #[command(flatten)]
    pub(crate) registry: RegistryOptions,
    /// How to run guest code
    #[arg(long, value_enum, default_value_t, env = "BULKHEAD_ACCEL")]
    pub(crate) accel: AccelChoice,
    /// Which guest kernel
    #[arg(long, value_enum, default_value_t, env = "BULKHEAD_KERNEL")]
    pub(crate) kernel: KernelChoice,
    /// Virtual processors [default: from --cpus, else what suits the host]
    #[arg(long, value_name = "COUNT")]
    pub(crate) vcpus: Option<u32>,
    /// `file` keeps the output for `bulkhead logs`, `none` does not
    #[arg(long, value_enum, default_value_t)]
    pub(crate) log_driver: LogDriver,
    /// Pass signals on to the container
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) sig_proxy: bool,
    /// Write the container's id to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    /// Print how long each phase of the start took
    #[arg(long)]
    pub(crate) timings: bool,
    /// IMAGE, and the command with its arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "IMAGE [COMMAND]"
    )]
    pub(crate) words: Vec<String>,
}

/// How registries are talked to.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct RegistryOptions {
    /// Insist on a trusted certificate; `--tls-verify=false` takes any, and plain HTTP
    #[arg(
        long,
        value_name = "BOOL",
        action = clap::ArgAction::Set,
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        hide_default_value = true
    )]
    pub(crate) tls_verify: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullPolicy {
    #[default]
    Missing,
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogDriver {
    #[default]
    File,
    None,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum AccelChoice {
    /// KVM where it is usable, else emulation with a warning
    #[default]
    Auto,
    /// KVM or an error
    Kvm,
    /// Emulation: slow, for trying and testing
    Tcg,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum KernelChoice {
    /// The tuned one if it was built, else the distribution's
    #[default]
    Auto,
    Tuned,
    Distro,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  bulkhead cp web:/etc/nginx ./nginx      the directory, as ./nginx (or into it, if it exists)
  bulkhead cp ./site/. web:/var/www       what is in ./site
  bulkhead cp ./fix.patch web:/tmp/
  bulkhead cp shop/app:/var/log/app ./    of the container `app` of the pod `shop`")]
pub(crate) struct CpOptions {
    /// What: a path, CONTAINER:PATH, or POD/CONTAINER:/PATH
    pub(crate) source: String,
    /// Where to: the other one
    pub(crate) target: String,
}

#[derive(Debug, Args)]
pub(crate) struct ExecOptions {
    /// Keep standard input connected
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the process a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set an environment variable
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// User and group: name or id, [:group]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<PathBuf>,
    /// All capabilities of the guest, and no seccomp filter
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Do not wait for the process
    #[arg(short, long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) oci: oci::ExecAsked,
    /// Name, id, or beginning of an id; or a pod, and behind a `/` its container
    #[arg(value_name = "CONTAINER|POD[/CONTAINER]")]
    pub(crate) name: String,
    /// The command with its arguments
    #[arg(
        required_unless_present = "process",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PsOptions {
    /// Those that have ended, too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) format: FormatOption,
    /// The containers of this pod, instead of those of `bulkhead run`
    #[arg(value_name = "POD")]
    pub(crate) pod: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LogsOptions {
    /// Go on until the container ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Put the time before each line
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    pub(crate) tail: Option<usize>,
    /// Only what came after this: `10m` or an RFC 3339 time
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Name, id, or beginning of an id; or a pod, and behind a `/` its container
    #[arg(value_name = "CONTAINER|POD[/CONTAINER]")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct AttachOptions {
    /// Do not connect standard input
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Pass signals on to the container
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) sig_proxy: bool,
    #[command(flatten)]
    pub(crate) name: Name,
}

#[derive(Debug, Args)]
pub(crate) struct StopOptions {
    /// Seconds to wait before SIGKILL [default: the container's own, 10]
    #[arg(short, long, value_name = "SECONDS")]
    pub(crate) time: Option<u64>,
    #[command(flatten)]
    pub(crate) names: Names,
}

#[derive(Debug, Args)]
pub(crate) struct KillOptions {
    /// Signal, by name or number
    #[arg(short, long, default_value = "KILL")]
    pub(crate) signal: String,
    /// Every process of a container of `bulkhead create`
    #[arg(long, hide = true)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) names: Names,
}

#[derive(Debug, Args)]
pub(crate) struct RmOptions {
    /// Running ones too: they are killed
    #[arg(short, long)]
    pub(crate) force: bool,
    /// All that have ended
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Names, ids, or beginnings of ids
    #[arg(required_unless_present = "all", value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StatsOptions {
    /// Print once and end
    #[arg(long)]
    pub(crate) no_stream: bool,
    #[command(flatten)]
    pub(crate) format: FormatOption,
    /// Names, ids, or beginnings of ids [default: all that run]
    #[arg(value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct EventsOptions {
    /// Go on with what happens from now
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only what came after this: `10m` or an RFC 3339 time
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    #[command(flatten)]
    pub(crate) format: FormatOption,
}

#[derive(Debug, Args)]
pub(crate) struct CheckOptions {
    #[command(flatten)]
    pub(crate) format: FormatOption,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Get images into the store
    Pull {
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        #[command(flatten)]
        registry: RegistryOptions,
    },
    /// List images
    Ls(FormatOption),
    /// Remove images
    Rm {
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Remove everything no image and no container needs
    Prune,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GuestCommand {
    /// Build a guest kernel and initramfs into the cache
    Build {
        /// `tuned` compiles a kernel (some minutes), `distro` takes Debian's
        #[arg(long, value_enum, default_value = "tuned")]
        kernel: KernelChoice,
        /// The static agent binary [default: beside this program]
        #[arg(long, value_name = "FILE")]
        agent: Option<PathBuf>,
    },
    /// List what was built
    Ls(FormatOption),
    /// Compare what was built with its digests
    Verify,
}

const CONFIG_EXAMPLES: &str = "Examples:
  bulkhead config check                         before containerd reads it
  bulkhead config explain                       what holds, and which file says so
  bulkhead config explain --file ./config.toml --format json";

/// What of the configuration.
#[derive(Debug, Subcommand)]
#[command(after_help = CONFIG_EXAMPLES)]
pub(crate) enum ConfigCommand {
    /// Say whether the file and its drop-ins are right
    Check(ConfigOptions),
    /// Show every setting, its value, and the file that says so
    Explain(ConfigOptions),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigOptions {
    /// The file [default: /etc/bulkhead/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) format: FormatOption,
}

const DEBUG_EXAMPLES: &str = "POD is a pod's name, NAMESPACE/NAME, uid, id, or the beginning of \
its id.

Examples:
  bulkhead debug web                            a shell beside the guest's agent
  bulkhead debug web dmesg                      one command of the host's static busybox
  bulkhead debug --tools ./rootfs web strace -p 7
  bulkhead debug --image registry.example/tools web tcpdump -ni eth0
  bulkhead debug --console web                  what the guest's kernel said last";

#[derive(Debug, Args)]
pub(crate) struct DebugOptions {
    /// Print the last lines of the guest's console instead
    #[arg(long, conflicts_with_all = ["tools", "command"])]
    pub(crate) console: bool,
    /// A directory with programs, read-only as the root filesystem [default: a
    /// static busybox of this host's]
    #[arg(long, value_name = "DIR")]
    pub(crate) tools: Option<PathBuf>,
    /// An image with programs, which is pulled if it is not there
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["tools", "console"])]
    pub(crate) image: Option<String>,
    #[command(flatten)]
    pub(crate) registry: RegistryOptions,
    /// The pod
    pub(crate) pod: String,
    /// The command with its arguments [default: a shell]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

const PODS_EXAMPLES: &str = "Examples:
  bulkhead pods                                 each with its state and size
  bulkhead pods --timings                       how long each part of the starts took
  bulkhead pods --timings default/web           of one pod
  bulkhead pods --format json                   everything, with the containers' usage";

#[derive(Debug, Args)]
pub(crate) struct PodsOptions {
    /// Show how long each part of their starts took
    #[arg(long)]
    pub(crate) timings: bool,
    #[command(flatten)]
    pub(crate) format: FormatOption,
    /// Only this one, by its name, NAMESPACE/NAME, uid, or the beginning of its id
    pub(crate) pod: Option<String>,
}

const MONITOR_EXAMPLES: &str = "Examples:
  bulkhead monitor                              on the loopback interface
  bulkhead monitor --listen 0.0.0.0:8090        for a Prometheus elsewhere
  bulkhead monitor --otlp http://127.0.0.1:4318 spans of pods to a collector, too
  curl -s http://127.0.0.1:8090/metrics";

#[derive(Debug, Args)]
pub(crate) struct MonitorOptions {
    /// Address and port; port 0 takes a free one, which is printed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    pub(crate) listen: std::net::SocketAddr,
    /// Also send spans of pods with `trace = true` to this OpenTelemetry collector, by OTLP/HTTP
    #[arg(long, value_name = "URL")]
    pub(crate) otlp: Option<String>,
}

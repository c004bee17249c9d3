//! The options about the container itself, as typed.

use std::path::PathBuf;

use clap::Args;

use super::values::{ByteSize, Ulimit};

/// What may be said about a container.
#[derive(Debug, Default, Args)]
pub(crate) struct ContainerOptions {
    /// Keep standard input connected
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Replace the image's entrypoint; a JSON array or one program
    #[arg(long, value_name = "COMMAND")]
    pub(crate) entrypoint: Option<String>,
    /// Set an environment variable; without a value the caller's is taken
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<PathBuf>,
    /// User and group: name or id, [:group]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Supplementary group id
    #[arg(long, value_name = "GID")]
    pub(crate) group_add: Vec<u32>,
    /// Share a host directory or file: SRC:DST[:ro]
    #[arg(short, long, value_name = "SRC:DST[:OPTIONS]")]
    pub(crate) volume: Vec<String>,
    /// Mount a tmpfs: DST[:size=64m,mode=1777]
    #[arg(long, value_name = "DST[:OPTIONS]")]
    pub(crate) tmpfs: Vec<String>,
    /// type=bind|tmpfs,src=PATH,dst=PATH[,ro]
    #[arg(long, value_name = "MOUNT")]
    pub(crate) mount: Vec<String>,
    /// Processor time, in processors: 0.5, 2
    #[arg(long, value_name = "COUNT")]
    pub(crate) cpus: Option<f64>,
    /// Relative weight of processor time, 2 to 262144
    #[arg(long, value_name = "SHARES")]
    pub(crate) cpu_shares: Option<u64>,
    /// Memory limit; the virtual machine is sized from it
    #[arg(short, long, value_name = "SIZE")]
    pub(crate) memory: Option<ByteSize>,
    /// Processes at most; -1 for no limit
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "2048",
        allow_hyphen_values = true
    )]
    pub(crate) pids_limit: i64,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE", default_value = "64m")]
    pub(crate) shm_size: ByteSize,
    /// Host name [default: the beginning of the id]
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// The root filesystem cannot be written
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAP")]
    pub(crate) cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAP")]
    pub(crate) cap_drop: Vec<String>,
    /// seccomp=FILE|unconfined, no-new-privileges
    #[arg(long, value_name = "OPTION")]
    pub(crate) security_opt: Vec<String>,
    /// Everything, inside the guest: all capabilities, all of the guest's
    /// devices, no seccomp filter. The host is no nearer than without it.
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Host devices are not shared; refused
    #[arg(long, value_name = "DEVICE", hide = true)]
    pub(crate) device: Vec<String>,
    /// Set a namespaced kernel parameter
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) sysctl: Vec<String>,
    /// Set a resource limit: nofile=1024:2048
    #[arg(long, value_name = "TYPE=SOFT[:HARD]")]
    pub(crate) ulimit: Vec<Ulimit>,
    /// File mode creation mask, octal
    #[arg(long, value_name = "MASK")]
    pub(crate) umask: Option<String>,
    /// Adjust the chance of being killed for memory, -1000 to 1000
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true)]
    pub(crate) oom_score_adj: Option<i32>,
    /// Signal that stops the container [default: the image's, TERM]
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// Seconds between the stop signal and SIGKILL
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) stop_timeout: u64,
    /// Attach a label
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// The command behind the image.
    #[arg(skip)]
    pub(crate) command: Vec<String>,
}

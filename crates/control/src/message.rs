//! The messages.

use std::path::PathBuf;

use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};

/// Which stdio descriptors come with a request, in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// A pipe to read from.
    pub stdin: bool,
    /// A pipe to write to.
    pub stdout: bool,
    /// A pipe to write to.
    pub stderr: bool,
}

impl Streams {
    /// How many descriptors that is.
    pub fn count(self) -> usize {
        usize::from(self.stdin) + usize::from(self.stdout) + usize::from(self.stderr)
    }
}

/// A process to run in a running container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Id of the container in its pod; empty: the supervisor's only one.
    pub container: String,
    /// OCI runtime spec `process`.
    pub process: Process,
    /// `user[:group]` to be resolved in the image; empty: the process's ids.
    pub user: String,
    /// Without the container's seccomp filter.
    pub privileged: bool,
    /// Rows and columns of the terminal.
    pub size: Option<(u16, u16)>,
    /// Files to move, instead of a command to run.
    pub archive: Option<Archive>,
}

/// Files to move, instead of a command to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Archive {
    /// Into the container; else out of it.
    pub extract: bool,
    /// Where in the container.
    pub path: String,
    /// What it is called below `path` when that is a directory.
    pub name: String,
}

/// Programs for a process outside of any container: a guest has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tools {
    /// A static busybox of the host.
    Busybox(PathBuf),
    /// A directory of the host that is a root filesystem.
    Directory(PathBuf),
    /// Files of the host that are EROFS layers of one, bottom to top.
    Layers(Vec<PathBuf>),
}

/// A process in a pod's guest, outside of any container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DebugSpec {
    /// What is executed; empty: a shell.
    pub command: Vec<String>,
    /// Its programs.
    pub tools: Tools,
    /// It gets a terminal.
    pub terminal: bool,
    /// Rows and columns of the terminal.
    pub size: Option<(u16, u16)>,
}

/// What a command wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Connects stdio to the container's first process. A second answer
    /// comes when it has ended.
    Attach(Streams),
    /// Ends an attachment and leaves the process as it is: its input stays
    /// open.
    Detach {
        /// Number of the request that attached.
        attached: u64,
    },
    /// Asks why the guest is emulated; answered as soon as the host was probed.
    Emulated,
    /// Lets the container's command run; only its creator may say so.
    Start,
    /// Runs a further process. A second answer comes when it has ended.
    Exec(Box<ExecSpec>, Streams),
    /// Asks for the first process of a pod's container, as it was to be run.
    Process {
        /// The container's id.
        container: String,
    },
    /// Kills a process of a pod's container when the one descriptor that comes along can
    /// be read: of a pipe, when nobody has its other end any more.
    Own {
        /// The container's id.
        container: String,
        /// The further process; empty: all of the container's.
        exec: String,
    },
    /// Gives the file system of a pod's volume that is a disk all of it, which has grown.
    GrowVolume {
        /// Where the volume is for the host.
        path: PathBuf,
        /// What the disk has at least.
        bytes: u64,
    },
    /// Runs a process in a pod's guest. A second answer comes when it has
    /// ended.
    Debug(Box<DebugSpec>, Streams),
    /// Writes the last lines of the guest's console to the one pipe that comes
    /// along. A second answer comes when they are written.
    Console(Streams),
    /// Sends a signal.
    Signal {
        /// The request whose process is meant; none: the container's first.
        attached: Option<u64>,
        /// Its number on Linux.
        signal: u32,
        /// Every process of the container.
        all: bool,
    },
    /// Sets a terminal's size.
    Resize {
        /// The request whose process is meant; none: the container's first.
        attached: Option<u64>,
        /// Lines of text.
        rows: u16,
        /// Characters in each.
        columns: u16,
    },
    /// Answers when the container is over.
    Wait,
    /// Freezes the machine.
    Pause,
    /// Lets it run again.
    Resume,
    /// Asks what the container uses.
    Stats,
    /// Asks for the pids of its processes.
    Top,
}

/// A request and its number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// No other request of this connection has it.
    pub number: u64,
    /// What is wanted.
    pub request: Request,
}

/// What the other side says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// It is done, or works.
    Done,
    /// The process has ended.
    Exited {
        /// Exit code, or 128 + signal.
        code: i32,
        /// What is to be said of it.
        reason: Option<String>,
    },
    /// Why the guest is emulated; none: it runs on the processor, or did not get
    /// that far.
    Emulated(Option<String>),
    /// What the container uses.
    Stats(Box<StatsLine>),
    /// Pids in the guest.
    Pids(Vec<u32>),
    /// A container's first process.
    Process(Box<Process>),
    /// It cannot be.
    Failed(Failure),
}

/// Why not.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// Exit code the command ends with: 125, 126 or 127.
    pub exit_code: i32,
    /// For people.
    pub text: String,
}

impl Failure {
    /// Not the command's own: exit code 125.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            exit_code: 125,
            text: text.into(),
        }
    }
}

/// An answer and the number of its request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reply {
    /// The request's.
    pub number: u64,
    /// What there is to say.
    pub answer: Answer,
}

/// What a container uses.
#[expect(missing_docs, reason = "each says what it is, with its unit")]
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StatsLine {
    pub id: String,
    pub name: String,
    pub cpu_usage_usec: u64,
    pub memory_bytes: u64,
    pub memory_limit_bytes: u64,
    pub guest_memory_bytes: u64,
    pub guest_available_bytes: u64,
    pub host_memory_bytes: u64,
    pub supervisor_memory_bytes: u64,
    pub pids: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub storage_used_bytes: u64,
    pub storage_size_bytes: u64,
    pub oom_kills: u64,
}

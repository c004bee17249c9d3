//! The messages.

use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};

/// Which stdio descriptors come with a request, in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Streams {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

impl Streams {
    /// How many descriptors that is.
    pub(crate) fn count(self) -> usize {
        usize::from(self.stdin) + usize::from(self.stdout) + usize::from(self.stderr)
    }
}

/// A process to run in a running container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExecSpec {
    pub(crate) process: Process,
    pub(crate) user: String,
    pub(crate) privileged: bool,
    pub(crate) size: Option<(u16, u16)>,
    pub(crate) archive: Option<Archive>,
}

/// Files to move, instead of a command to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Archive {
    /// Into the container; else out of it.
    pub(crate) extract: bool,
    pub(crate) path: String,
    pub(crate) name: String,
}

/// What a command wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Connects stdio to the container's first process. A second answer
    /// comes when it has ended.
    Attach(Streams),
    /// Ends an attachment and leaves the process as it is: its input stays
    /// open.
    Detach {
        attached: u64,
    },
    /// Lets the container's command run; only its creator may say so.
    Start,
    /// Runs a further process. A second answer comes when it has ended.
    Exec(Box<ExecSpec>, Streams),
    /// Sends a signal; `attached` names the request whose process is meant,
    /// none the container's first process.
    Signal {
        attached: Option<u64>,
        signal: u32,
        all: bool,
    },
    /// Sets a terminal's size.
    Resize {
        attached: Option<u64>,
        rows: u16,
        columns: u16,
    },
    /// Answers when the container is over.
    Wait,
    Pause,
    Resume,
    Stats,
    Top,
}

/// A request and its number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) number: u64,
    pub(crate) request: Request,
}

/// What the supervisor says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    Exited { code: i32, reason: Option<String> },
    Stats(Box<StatsLine>),
    Pids(Vec<u32>),
    Failed(Failure),
}

/// Why not.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    /// Exit code the command ends with: 125, 126 or 127.
    pub(crate) exit_code: i32,
    pub(crate) text: String,
}

/// An answer and the number of its request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub(crate) number: u64,
    pub(crate) answer: Answer,
}

/// What a container uses.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct StatsLine {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) cpu_usage_usec: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) memory_limit_bytes: u64,
    pub(crate) guest_memory_bytes: u64,
    pub(crate) guest_available_bytes: u64,
    pub(crate) host_memory_bytes: u64,
    pub(crate) supervisor_memory_bytes: u64,
    pub(crate) pids: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) storage_used_bytes: u64,
    pub(crate) storage_size_bytes: u64,
    pub(crate) oom_kills: u64,
}

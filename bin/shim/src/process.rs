//! A process as containerd sees it.
//!
//! ```text
//!   Created ──start──▶ Running ──▶ Stopped
//!      └──────── killed, or the machine died ─▶ Stopped
//! ```

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use bulkhead_sandbox::StdioConfig;
use containerd_shim_protos::api::Status as ApiStatus;
use oci_spec::runtime::Process as ProcessSpec;
use protobuf::well_known_types::timestamp::Timestamp;
use tokio::sync::{Notify, watch};

use crate::stdio::Paths;

/// Where in its life a process is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Status {
    Created,
    Running,
    Stopped(Exit),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exit {
    /// Exit code, or 128 + signal.
    pub(crate) code: u32,
    pub(crate) at: Timestamp,
}

impl Exit {
    /// An end at this moment.
    pub(crate) fn now(code: u32) -> Self {
        Self { code, at: now() }
    }
}

/// A container's first process, a further one, or the pod.
#[derive(Debug)]
pub(crate) struct Process {
    status: watch::Sender<Status>,
    pub(crate) paths: Paths,
    /// What is to be executed; none for a container's first.
    pub(crate) exec: Option<ProcessSpec>,
    /// Ends its input.
    pub(crate) close_input: Arc<Notify>,
    /// Held while it is started and that is told: its end is told after.
    pub(crate) starting: tokio::sync::Mutex<()>,
    /// Rows and columns asked for before it was started.
    size: Mutex<Option<(u16, u16)>>,
}

impl Process {
    pub(crate) fn new(paths: Paths, exec: Option<ProcessSpec>) -> Arc<Self> {
        let status = watch::Sender::new(Status::Created);
        Arc::new(Self {
            status,
            paths,
            exec,
            close_input: Arc::default(),
            starting: tokio::sync::Mutex::default(),
            size: Mutex::default(),
        })
    }

    pub(crate) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// It runs, unless it has ended already.
    pub(crate) fn run(&self) {
        self.status.send_if_modified(|status| {
            let created = *status == Status::Created;
            if created {
                *status = Status::Running;
            }
            created
        });
    }

    /// It has ended; true when this is news.
    pub(crate) fn stop(&self, exit: Exit) -> bool {
        self.status.send_if_modified(|status| {
            let news = !matches!(status, Status::Stopped(_));
            if news {
                *status = Status::Stopped(exit);
            }
            news
        })
    }

    /// Answers when it has ended.
    pub(crate) async fn ended(&self) -> Exit {
        let mut status = self.status.subscribe();
        let stopped = status
            .wait_for(|status| matches!(status, Status::Stopped(_)))
            .await;
        match stopped.as_deref() {
            Ok(Status::Stopped(exit)) => exit.clone(),
            // The sender lives as long as `self`.
            _ => Exit::now(255),
        }
    }

    pub(crate) fn remember_size(&self, rows: u16, columns: u16) {
        let mut size = self.size.lock().unwrap_or_else(|e| e.into_inner());
        *size = Some((rows, columns));
    }

    pub(crate) fn stdio(&self) -> StdioConfig {
        StdioConfig {
            stdin: !self.paths.stdin.is_empty(),
            terminal: self.paths.terminal,
            size: *self.size.lock().unwrap_or_else(|e| e.into_inner()),
        }
    }
}

/// The status in containerd's words.
pub(crate) fn api_status(status: &Status, paused: bool) -> ApiStatus {
    match status {
        Status::Created => ApiStatus::CREATED,
        Status::Running if paused => ApiStatus::PAUSED,
        Status::Running => ApiStatus::RUNNING,
        Status::Stopped(_) => ApiStatus::STOPPED,
    }
}

/// Seconds since the epoch.
pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        ..Default::default()
    }
}

/// This moment.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos().cast_signed(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_told_once_and_kept() {
        let process = Process::new(Paths::default(), None);
        assert!(process.stop(Exit::now(137)));
        assert!(!process.stop(Exit::now(0)));
        process.run();
        assert_eq!(process.ended().await.code, 137);
    }
}

//! Collects every child that ends: PID 1 inherits the orphans of all.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{WaitOptions, WaitStatus, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Exit code, or 128 + signal.
    pub(crate) status: u32,
    /// Signal that ended it; 0: none.
    pub(crate) signal: u32,
}

impl Exit {
    fn from_wait(status: WaitStatus) -> Option<Self> {
        if let Some(signal) = status.terminating_signal() {
            let signal = signal.unsigned_abs();
            return Some(Self {
                status: 128 + signal,
                signal,
            });
        }
        let code = status.exit_status()?.unsigned_abs();
        Some(Self {
            status: code,
            signal: 0,
        })
    }
}

/// Hands exits to whoever waits for a pid.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reaper {
    // Held for a map operation only.
    watched: Arc<Mutex<HashMap<i32, oneshot::Sender<Exit>>>>,
}

impl Reaper {
    /// Starts collecting; has to be called inside the runtime.
    pub(crate) fn start() -> io::Result<Self> {
        let reaper = Self::default();
        let children = signal(SignalKind::child())?;
        tokio::spawn(reaper.clone().run(children));
        Ok(reaper)
    }

    /// The future exit of a child. Call it before the next await after the
    /// fork: nothing is collected in between. Of a child whose pid is told later:
    /// while it waits for a word, without which it is given up.
    pub(crate) fn watch(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (tell, exit) = oneshot::channel();
        self.lock().insert(pid, tell);
        exit
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i32, oneshot::Sender<Exit>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self, mut children: Signal) {
        loop {
            // One signal may stand for many ends.
            while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                let Some(exit) = Exit::from_wait(status) else {
                    continue;
                };
                if let Some(tell) = self.lock().remove(&pid.as_raw_nonzero().get()) {
                    let _ = tell.send(exit);
                }
            }
            if children.recv().await.is_none() {
                return;
            }
        }
    }
}

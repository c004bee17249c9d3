//! What a stand-in does while the process it stands for lives.

use std::os::fd::OwnedFd;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

use bulkhead_provision::helper::readable;
use bulkhead_sys::cgroup::{Cgroup, Origin};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::shim::{FIRST, Shim};
use super::stand_in::LOST;
use super::{Error, Place, runtime};
use crate::client::{Near, Raw, relay, terminal_size};

/// How long a shim may take to end its machine, whose files are written before.
const END: Duration = Duration::from_secs(20);

/// Signals that are passed on. The others a process gets for itself.
const PASSED: [SignalKind; 6] = [
    SignalKind::hangup(),
    SignalKind::interrupt(),
    SignalKind::quit(),
    SignalKind::terminate(),
    SignalKind::user_defined1(),
    SignalKind::user_defined2(),
];

/// What a stand-in was given.
pub(super) struct Held {
    pub(super) near: Near,
    /// The shim's process, where the machine ends with the container.
    pub(super) machine: Option<OwnedFd>,
    /// The joined control group, and where this process was before.
    pub(super) group: Option<(Cgroup, Origin)>,
    pub(super) terminal: bool,
    pub(super) _kept: Vec<OwnedFd>,
}

/// Waits for a process's end, and for a container's takes everything away that was made
/// for it; the exit code. Says when it hears signals.
pub(super) fn wait(
    place: &Place,
    exec: &str,
    held: Held,
    attends: &Sender<()>,
) -> Result<u8, Error> {
    runtime()?.block_on(async {
        let shim = Shim::connect(place).await?;
        let raw = match held.terminal {
            true => Raw::enter().map_err(Error::host("have its terminal"))?,
            false => None,
        };
        let outputs = relay(held.near);
        let heard = Heard::new()?;
        let _ = attends.send(());
        let code = attend(&shim, exec, held.terminal, heard).await;
        let ended = code.is_ok();
        if ended {
            settle(outputs).await;
        }
        drop(raw);
        let code = code.unwrap_or(LOST.into());
        match (exec, held.machine) {
            (FIRST, Some(process)) => end_machine(place, &shim, process, held.group).await,
            (FIRST, None) => end_member(place, &shim, held.group).await,
            (exec, _) => drop(shim.delete(exec).await),
        }
        Ok(u8::try_from(code).unwrap_or(LOST))
    })
}

/// What this process is told.
struct Heard {
    signals: mpsc::Receiver<u32>,
    resized: Signal,
}

impl Heard {
    fn new() -> Result<Self, Error> {
        let (tell, signals) = mpsc::channel(1);
        for kind in PASSED {
            let heard = signal(kind).map_err(Error::host("hear signals"))?;
            tokio::spawn(listen(heard, kind, tell.clone()));
        }
        let resized = signal(SignalKind::window_change());
        Ok(Self {
            signals,
            resized: resized.map_err(Error::host("hear signals"))?,
        })
    }
}

/// Passes it on until the other process has ended.
async fn attend(shim: &Shim, exec: &str, terminal: bool, mut heard: Heard) -> Result<u32, Error> {
    if terminal && let Some(size) = terminal_size() {
        let _ = shim.resize(exec, size).await;
    }
    let end = shim.wait(exec);
    tokio::pin!(end);
    loop {
        tokio::select! {
            code = &mut end => return code,
            Some(number) = heard.signals.recv() => {
                // It may just have ended.
                let _ = shim.kill(exec, number, false).await;
            }
            Some(()) = heard.resized.recv(), if terminal => {
                if let Some(size) = terminal_size() {
                    let _ = shim.resize(exec, size).await;
                }
            }
        }
    }
}

async fn listen(mut signals: Signal, kind: SignalKind, tell: mpsc::Sender<u32>) {
    while signals.recv().await.is_some() {
        let number = kind.as_raw_value().unsigned_abs();
        if tell.send(number).await.is_err() {
            return;
        }
    }
}

/// Waits until what was written has arrived.
async fn settle(outputs: Vec<JoinHandle<()>>) {
    for output in outputs {
        let _ = tokio::task::spawn_blocking(|| output.join()).await;
    }
}

/// Ends the shim, and with it the machine. A shim that is killed first leaves what
/// `delete` takes away.
async fn end_machine(
    place: &Place,
    shim: &Shim,
    process: OwnedFd,
    group: Option<(Cgroup, Origin)>,
) {
    if let Some((_, origin)) = group {
        let _ = origin.leave();
    }
    let _ = shim.delete(FIRST).await;
    let orderly = shim.shut_down().await.is_ok();
    let gone = timeout(END, readable(process)).await;
    if orderly && matches!(gone, Ok(Ok(()))) {
        place.forget_shim();
    }
}

/// Takes a container out of a machine that goes on.
async fn end_member(place: &Place, shim: &Shim, group: Option<(Cgroup, Origin)>) {
    if let Some((group, origin)) = group {
        // One that somebody else is in is somebody else's.
        let _ = origin.leave().and_then(|()| group.remove());
    }
    if shim.delete(FIRST).await.is_ok() {
        place.forget_shim();
    }
}

//! What may be asked of a container that is there.

use std::sync::Arc;
use std::time::Duration;

use bulkhead_sandbox::{AgentError, Stats};
use containerd_shim_protos::events::task as event;
use oci_spec::runtime::LinuxResources;

use super::Pod;
use crate::events::Event;
use crate::failure::{Failure, Outcome};
use crate::process::{Exit, Process, Status};

/// The largest signal: signal(7).
const LAST_SIGNAL: u32 = 64;

/// How long after its machine a process may take to be known as ended.
const ENDING: Duration = Duration::from_secs(10);

impl Pod {
    /// Sends a signal. 0 is none, and asks whether there is somebody: kill(2); CRI-O
    /// does.
    pub(crate) async fn kill(
        self: &Arc<Self>,
        id: &str,
        exec: &str,
        signal: u32,
        all: bool,
    ) -> Outcome<()> {
        self.settled(id).await;
        let process = self.process(id, exec)?;
        if matches!(process.status(), Status::Stopped(_)) {
            return Err(Failure::missing("process already finished"));
        }
        match signal {
            0 => return Ok(()),
            1..=LAST_SIGNAL => {}
            _ => return Err(Failure::invalid(format!("there is no signal {signal}"))),
        }
        if self.with(id, |container| Ok(container.is_pod()))? {
            self.lock().signal = Some(signal);
            self.stop.notify_one();
            return Ok(());
        }
        if !exec.is_empty() && process.status() == Status::Created {
            self.stopped(id, exec, &process, Exit::now(128 + signal));
            return Ok(());
        }
        self.signal(id, exec, &process, signal, all).await
    }

    /// Sends a signal to what runs in the guest. A machine that is just ending
    /// takes it along: containerd, told anything else than that it has ended,
    /// would keep it for ever.
    pub(super) async fn signal(
        &self,
        id: &str,
        exec: &str,
        process: &Process,
        signal: u32,
        all: bool,
    ) -> Outcome<()> {
        let sent = match self.running() {
            Ok(sandbox) => sandbox.container(id).signal(exec, signal, all).await,
            Err(_) if *self.over.borrow() => Err(AgentError::Gone(String::new())),
            Err(failure) => return Err(failure),
        };
        match sent {
            Ok(()) => Ok(()),
            Err(AgentError::Gone(_)) => {
                let _ = tokio::time::timeout(ENDING, process.ended()).await;
                Err(Failure::missing("process already finished"))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sets a terminal's size.
    pub(crate) async fn resize(
        &self,
        id: &str,
        exec: &str,
        rows: u16,
        columns: u16,
    ) -> Outcome<()> {
        let process = self.process(id, exec)?;
        process.remember_size(rows, columns);
        let waiting = !exec.is_empty() && process.status() == Status::Created;
        if waiting || !process.paths.terminal {
            return Ok(());
        }
        let container = self.running()?.container(id);
        container.resize(exec, rows, columns).await?;
        Ok(())
    }

    /// Freezes or thaws a container.
    pub(crate) async fn pause(&self, id: &str, paused: bool) -> Outcome<()> {
        self.refuse_pod(id)?;
        let container = self.running()?.container(id);
        if paused {
            container.pause().await?;
        } else {
            container.resume().await?;
        }
        self.with(id, |container| {
            container.paused = paused;
            Ok(())
        })?;
        let container_id = id.to_owned();
        self.publish(if paused {
            Event::Paused(event::TaskPaused {
                container_id,
                ..Default::default()
            })
        } else {
            Event::Resumed(event::TaskResumed {
                container_id,
                ..Default::default()
            })
        });
        Ok(())
    }

    /// Changes a container's limits, all of them or, where one cannot be
    /// changed, none.
    pub(crate) async fn update(&self, id: &str, wanted: &LinuxResources) -> Outcome<()> {
        self.refuse_pod(id)?;
        let size = self.lock().size;
        let size = size.ok_or_else(|| Failure::state("the pod has no machine"))?;
        let limits = self.with(id, |container| {
            let had = container.resources();
            Ok(bulkhead_bundle::update(wanted, had, size.most())?)
        })?;
        let container = self.running()?.container(id);
        refuse_below_usage(wanted, container.stats().await?.memory_current)?;
        self.grow(id, wanted).await?;
        container.update(&limits).await?;
        self.with(id, |container| {
            container.set_limits(wanted);
            Ok(())
        })
    }

    /// Pids of a container's processes, in the guest.
    pub(crate) async fn pids(&self, id: &str) -> Outcome<Vec<u32>> {
        self.refuse_pod(id)?;
        Ok(self.running()?.container(id).pids().await?)
    }

    /// What a container uses.
    pub(crate) async fn stats(&self, id: &str) -> Outcome<Stats> {
        if self.with(id, |container| Ok(container.is_pod()))? {
            // No process of the pod's own.
            return Ok(Stats::default());
        }
        Ok(self.running()?.container(id).stats().await?)
    }
}

/// runc's `--memory` with "check before update": the kernel would end processes
/// of a container that uses more than its new limit.
fn refuse_below_usage(wanted: &LinuxResources, used: u64) -> Outcome<()> {
    let memory = wanted.memory().as_ref();
    let checked = memory.filter(|own| own.check_before_update() == Some(true));
    let limit = checked.and_then(|own| own.limit());
    let limit = limit.and_then(|limit| u64::try_from(limit).ok());
    match limit.filter(|limit| (1..used).contains(limit)) {
        Some(limit) => Err(Failure::state(format!(
            "the container uses {used} bytes of memory, more than the new limit of {limit}"
        ))),
        None => Ok(()),
    }
}

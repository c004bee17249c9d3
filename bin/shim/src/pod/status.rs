//! What the pod says of itself to whoever on the host asks: bulkhead-status.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_sandbox::Stats;
use bulkhead_status as status;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};

use super::{Container, Pod};
use crate::process::Status;

/// How long the guest may take to count what a container uses.
const COUNTING: Duration = Duration::from_secs(1);

/// How long an asker may take to take the answer.
const TAKING: Duration = Duration::from_secs(2);

/// Answers askers, one after the other, until the process ends. The pod's
/// directory goes with the process, and the socket with it.
pub(super) fn serve(pod: &Arc<Pod>) {
    let listener = match UnixListener::bind(pod.place.status()) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, "the pod cannot say how it is");
            return;
        }
    };
    let pod = Arc::downgrade(pod);
    tokio::spawn(async move {
        while let Ok((asker, _)) = listener.accept().await {
            let Some(pod) = pod.upgrade() else {
                return;
            };
            let answer = tokio::time::timeout(TAKING, answer(asker, pod.status().await));
            let _ = answer.await;
        }
    });
}

async fn answer(mut asker: UnixStream, status: status::Pod) -> io::Result<()> {
    let bytes = serde_json::to_vec(&status)?;
    asker.write_all(&bytes).await?;
    asker.shutdown().await
}

impl Pod {
    async fn status(&self) -> status::Pod {
        let sandbox = self.running().ok();
        let mut pod = self.own_status();
        if let Some(sandbox) = &sandbox {
            pod.monitor_pid = Some(sandbox.vmm_pid());
            let phases = sandbox.timings().iter();
            let phases = phases.map(|own| (own.phase.to_owned(), own.took.as_secs_f64()));
            pod.phases = phases.collect();
        }
        for container in &mut pod.containers {
            if container.state == RUNNING
                && let Some(stats) = self.counted(&container.id).await
            {
                container.usage = Some(usage(&stats));
                pod.volumes = self.volumes(&stats.disks);
            }
        }
        pod
    }

    pub(crate) fn own_status(&self) -> status::Pod {
        let ended = *self.over.borrow();
        let started = matches!(&*self.boot.borrow(), Some(Ok(_)));
        let state = self.lock();
        let containers = state.containers.iter().filter(|(_, own)| !own.is_pod());
        status::Pod {
            id: self.id.clone(),
            namespace: self.namespace.clone(),
            kubernetes: state.kubernetes.clone(),
            state: match (ended, started) {
                (true, _) => status::State::Ended,
                (false, true) => status::State::Running,
                (false, false) => status::State::Starting,
            },
            reason: state.reason.clone(),
            started: self.started,
            vcpus: state.size.map_or(0, |own| own.size().vcpus),
            memory: state.size.map_or(0, |own| own.size().memory),
            overhead: state.size.map_or(0, |own| own.beside()),
            logs: state.logs.clone(),
            shim_pid: std::process::id(),
            monitor_pid: None,
            phases: Vec::new(),
            containers: containers.map(|(id, own)| container(id, own)).collect(),
            volumes: Vec::new(),
        }
    }

    async fn counted(&self, id: &str) -> Option<Stats> {
        let stats = tokio::time::timeout(COUNTING, self.stats(id)).await;
        stats.ok()?.ok()
    }
}

fn usage(stats: &Stats) -> status::Usage {
    status::Usage {
        cpu_seconds: Duration::from_micros(stats.cpu_usage_usec).as_secs_f64(),
        memory: stats.memory_current,
        memory_limit: stats.memory_limit,
        pids: stats.pids_current,
        oom_kills: stats.oom_kills,
    }
}

const RUNNING: &str = "running";

fn container(id: &str, own: &Container) -> status::Container {
    let (state, exit_code) = match own.main().status() {
        Status::Created => ("created", None),
        Status::Running => (RUNNING, None),
        Status::Stopped(exit) => ("stopped", Some(exit.code)),
    };
    status::Container {
        id: id.to_owned(),
        name: own.name.clone(),
        log: own.log.clone(),
        state: state.to_owned(),
        exit_code,
        usage: None,
    }
}

//! The supervisor's ear.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bulkhead_provision::seccomp;
use bulkhead_sandbox::{ExecConfig, StdioConfig};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::life::{Running, Shared, refusal};
use super::stdio::pump_exec;
use crate::state::{Status, events};
use bulkhead_control::{
    Answer, AsyncSocket, Call, ExecSpec, Failure, Listener, Pipes, Reply, Request, StatsLine,
    Streams,
};

/// Attachments of one connection at most.
const ATTACHED_LIMIT: usize = 64;

/// Takes connections until the supervisor ends.
pub(super) async fn listen(listener: Listener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok(socket) => {
                tokio::spawn(connection(socket, Arc::clone(&shared)));
            }
            Err(error) => {
                tracing::error!(%error, "no more commands can be heard");
                return;
            }
        }
    }
}

/// Serves the creator. When it leaves before the container started, that is
/// given up.
pub(super) async fn creator(socket: AsyncSocket, shared: Arc<Shared>, done: oneshot::Sender<()>) {
    connection(socket, Arc::clone(&shared)).await;
    // notify_one leaves a permit, so that a later look finds it.
    if shared.started.borrow().is_none() {
        shared.abandoned.notify_one();
    }
    let _ = done.send(());
}

struct Connection {
    socket: AsyncSocket,
    shared: Arc<Shared>,
    // Held for a map operation only.
    attached: Mutex<HashMap<u64, Attached>>,
}

#[derive(Default)]
struct Attached {
    /// Name of the exec; none: the first process.
    exec: Option<String>,
    stdin: Option<AbortHandle>,
}

async fn connection(socket: AsyncSocket, shared: Arc<Shared>) {
    let connection = Arc::new(Connection {
        socket,
        shared,
        attached: Mutex::default(),
    });
    let mut tasks = tokio::task::JoinSet::new();
    while let Ok(Some((call, fds))) = connection.socket.receive::<Call>().await {
        let connection = Arc::clone(&connection);
        let owed = Owed::new(Arc::clone(&connection.shared));
        tasks.spawn(async move {
            let number = call.number;
            let answer = connection.answer(call, fds).await;
            let answer = answer.unwrap_or_else(Answer::Failed);
            let _ = connection.socket.send(&Reply { number, answer }).await;
            drop(owed);
        });
    }
}

/// An answer somebody waits for; none is owed to who left.
struct Owed(Arc<Shared>);

impl Owed {
    fn new(shared: Arc<Shared>) -> Self {
        shared.owed.send_modify(|calls| *calls += 1);
        Self(shared)
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.owed.send_modify(|calls| *calls -= 1);
    }
}

static EXECS: AtomicU64 = AtomicU64::new(1);

impl Connection {
    async fn answer(&self, call: Call, fds: Vec<OwnedFd>) -> Result<Answer, Failure> {
        match call.request {
            Request::Attach(streams) => self.attach(call.number, streams, fds).await,
            Request::Detach { attached } => {
                if let Some(Attached {
                    stdin: Some(pump), ..
                }) = self.lock().remove(&attached)
                {
                    pump.abort();
                }
                Ok(Answer::Done)
            }
            Request::Emulated => Ok(self.emulated().await),
            Request::Start => self.start().await,
            Request::Exec(spec, streams) => self.exec(call.number, *spec, streams, fds).await,
            Request::Signal {
                attached,
                signal,
                all,
            } => {
                let exec = self.exec_name(attached);
                let running = self.running().await?;
                events::emit(&self.shared.root, &self.shared.record, "kill", None);
                running
                    .container
                    .signal(&exec, signal, all)
                    .await
                    .map(|()| Answer::Done)
                    .map_err(|e| refusal(&e))
            }
            Request::Resize {
                attached,
                rows,
                columns,
            } => {
                let exec = self.exec_name(attached);
                let container = self.running().await?.container;
                container
                    .resize(&exec, rows, columns)
                    .await
                    .map(|()| Answer::Done)
                    .map_err(|e| refusal(&e))
            }
            Request::Process { .. }
            | Request::Own { .. }
            | Request::GrowVolume { .. }
            | Request::Debug(..)
            | Request::Console(_) => Err(Failure::new(
                "this is asked of pods, and a container of `bulkhead run` is none",
            )),
            Request::Wait => Ok(self.ended().await),
            Request::Pause => self.freeze(true).await,
            Request::Resume => self.freeze(false).await,
            Request::Stats => self.stats().await,
            Request::Top => {
                let container = self.running().await?.container;
                container
                    .pids()
                    .await
                    .map(Answer::Pids)
                    .map_err(|e| refusal(&e))
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Attached>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exec_name(&self, attached: Option<u64>) -> String {
        let name = attached.and_then(|number| self.lock().get(&number)?.exec.clone());
        name.unwrap_or_default()
    }

    fn remember(&self, number: u64, attached: Attached) -> Result<(), Failure> {
        let mut map = self.lock();
        if map.len() >= ATTACHED_LIMIT {
            return Err(Failure {
                exit_code: 125,
                text: "too many attachments".to_owned(),
            });
        }
        map.insert(number, attached);
        Ok(())
    }

    /// The running sandbox; waits for one that is starting.
    async fn running(&self) -> Result<Running, Failure> {
        let gone = || Failure {
            exit_code: 125,
            text: format!("the container `{}` is not running", self.shared.record.name),
        };
        let mut running = self.shared.running.subscribe();
        let mut ended = self.shared.ended.subscribe();
        tokio::select! {
            biased;
            _ = ended.wait_for(Option::is_some) => Err(gone()),
            running = running.wait_for(Option::is_some) => {
                running.ok().and_then(|running| running.clone()).ok_or_else(gone)
            }
        }
    }

    async fn ended(&self) -> Answer {
        let mut ended = self.shared.ended.subscribe();
        let ended = ended
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|ended| ended.clone());
        match ended {
            Some(ended) => Answer::Exited {
                code: ended.code,
                reason: ended.reason,
            },
            None => Answer::Exited {
                code: 255,
                reason: Some("the supervisor ended".to_owned()),
            },
        }
    }

    /// Waits for the probe, or for an end before it.
    async fn emulated(&self) -> Answer {
        let mut emulated = self.shared.emulated.subscribe();
        let known = emulated.wait_for(Option::is_some).await;
        Answer::Emulated(known.ok().and_then(|known| known.clone().flatten()))
    }

    async fn start(&self) -> Result<Answer, Failure> {
        self.shared.go.notify_one();
        let mut started = self.shared.started.subscribe();
        let outcome = started
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|s| s.clone());
        match outcome {
            Some(Ok(())) => Ok(Answer::Done),
            Some(Err(failure)) => {
                // The state on disk is final before anybody is told.
                self.ended().await;
                Err(failure)
            }
            None => Err(Failure {
                exit_code: 255,
                text: "the supervisor ended".to_owned(),
            }),
        }
    }

    async fn attach(
        &self,
        number: u64,
        streams: Streams,
        fds: Vec<OwnedFd>,
    ) -> Result<Answer, Failure> {
        let mut pipes = Pipes::new(streams, fds).map_err(failure)?;
        self.shared.hub.attach_output(&mut pipes).await;
        let mut attached = Attached::default();
        if let Some(stdin) = pipes.stdin {
            let (shared, running) = (Arc::clone(&self.shared), self.shared.running.subscribe());
            attached.stdin = Some(tokio::spawn(feed(shared, running, stdin)).abort_handle());
        }
        self.remember(number, attached)?;
        self.reply(number, Answer::Done).await;
        Ok(self.ended().await)
    }

    async fn reply(&self, number: u64, answer: Answer) {
        let _ = self.socket.send(&Reply { number, answer }).await;
    }

    async fn exec(
        &self,
        number: u64,
        spec: ExecSpec,
        streams: Streams,
        fds: Vec<OwnedFd>,
    ) -> Result<Answer, Failure> {
        let pipes = Pipes::new(streams, fds).map_err(failure)?;
        let running = self.running().await?;
        let name = format!("exec-{}", EXECS.fetch_add(1, Ordering::Relaxed));
        let filter = if spec.privileged {
            Vec::new()
        } else {
            seccomp::program(&self.shared.record.spec).map_err(|error| Failure {
                exit_code: 125,
                text: crate::report::chain(&error),
            })?
        };
        let config = ExecConfig {
            id: name.clone(),
            stdio: StdioConfig {
                stdin: streams.stdin,
                terminal: spec.process.terminal().unwrap_or(false),
                size: spec.size,
            },
            process: spec.process,
            user: spec.user,
            seccomp: filter,
            archive: spec.archive.map(|archive| bulkhead_sandbox::Archive {
                extract: archive.extract,
                path: archive.path,
                name: archive.name,
                ..Default::default()
            }),
        };
        let id = &self.shared.record.id;
        let stdio = running
            .sandbox
            .exec(id, config)
            .await
            .map_err(|e| refusal(&e))?;
        self.remember(
            number,
            Attached {
                exec: Some(name.clone()),
                stdin: None,
            },
        )?;
        self.reply(number, Answer::Done).await;
        events::emit(&self.shared.root, &self.shared.record, "exec", None);
        let pumps = pump_exec(stdio, pipes);
        let exit = tokio::select! {
            biased;
            exit = running.container.wait(&name) => exit.ok(),
            _ = running.sandbox.ended() => None,
        };
        pumps.finish().await;
        Ok(match exit {
            Some(exit) => Answer::Exited {
                code: exit.status.into(),
                reason: None,
            },
            None => Answer::Exited {
                code: 137,
                reason: Some("the container ended".to_owned()),
            },
        })
    }

    async fn freeze(&self, freeze: bool) -> Result<Answer, Failure> {
        let running = self.running().await?;
        let outcome = if freeze {
            running.sandbox.pause().await
        } else {
            running.sandbox.resume().await
        };
        outcome.map_err(failure)?;
        let (status, action) = if freeze {
            (Status::Paused, "pause")
        } else {
            (Status::Running, "unpause")
        };
        self.shared
            .state
            .lock()
            .await
            .update(|state| state.status = status);
        events::emit(&self.shared.root, &self.shared.record, action, None);
        Ok(Answer::Done)
    }

    async fn stats(&self) -> Result<Answer, Failure> {
        let running = self.running().await?;
        let stats = running.container.stats().await.map_err(|e| refusal(&e))?;
        let record = &self.shared.record;
        Ok(Answer::Stats(Box::new(StatsLine {
            id: record.id.clone(),
            name: record.name.clone(),
            cpu_usage_usec: stats.cpu_usage_usec,
            memory_bytes: stats
                .memory_current
                .saturating_sub(stats.memory_inactive_file),
            memory_limit_bytes: stats.memory_limit,
            guest_memory_bytes: stats.guest_mem_total_kib * 1024,
            guest_available_bytes: stats.guest_mem_available_kib * 1024,
            host_memory_bytes: proportional_set(running.sandbox.vmm_pid()),
            supervisor_memory_bytes: proportional_set(std::process::id()),
            pids: stats.pids_current,
            read_bytes: stats.io_read_bytes,
            written_bytes: stats.io_write_bytes,
            received_bytes: stats.interfaces.iter().map(|i| i.rx_bytes).sum(),
            sent_bytes: stats.interfaces.iter().map(|i| i.tx_bytes).sum(),
            storage_used_bytes: stats.rootfs_used_bytes,
            storage_size_bytes: stats.rootfs_size_bytes,
            oom_kills: stats.oom_kills,
        })))
    }
}

/// Proportional set size of a process, bytes. proc_pid_smaps(5).
fn proportional_set(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Pss:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

async fn feed(
    shared: Arc<Shared>,
    mut running: tokio::sync::watch::Receiver<Option<Running>>,
    stdin: tokio::net::unix::pipe::Receiver,
) {
    if running.wait_for(Option::is_some).await.is_ok() {
        shared.hub.pump_stdin(stdin).await;
    }
}

fn failure(error: impl std::error::Error + 'static) -> Failure {
    Failure {
        exit_code: 125,
        text: crate::report::chain(&error),
    }
}

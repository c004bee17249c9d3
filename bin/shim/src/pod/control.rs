//! Commands of this host's root: `bulkhead exec`, `bulkhead debug`. They come in
//! by a socket of the pod's own, in the protocol of bulkhead-control.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_control::{
    Answer, AsyncSocket, Call, DebugSpec, ExecSpec, Failure as Refused, Listener, Pipes, Reply,
    Request, Streams,
};
use bulkhead_hypervisor::LINES_KEPT;
use bulkhead_provision::helper::readable;
use bulkhead_sandbox::{AgentError, ExecConfig, Sandbox, StdioConfig};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::{Pod, no_process_in_pod};
use crate::failure::Failure;
use crate::stdio::{Ends, Pumps};

/// Commands served at once; further ones wait to be accepted.
const CONNECTION_LIMIT: usize = 64;

/// Requests of one command that wait for an end, at most.
const ATTACHED_LIMIT: usize = 64;

const SIGKILL: u32 = 9;

/// Exit code of what ended with its machine.
const LOST: i32 = 255;

static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// A name no container manager gives.
pub(super) fn fresh_name(what: &str) -> String {
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    format!("bulkhead-{what}-{number}")
}

type Answered = Result<Answer, Refused>;

/// Listens until the process ends. The pod's directory goes with the process,
/// and the socket with it.
pub(super) fn serve(pod: &Arc<Pod>) {
    let listener = match Listener::bind(&pod.place.dir()) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, "commands cannot reach the pod");
            return;
        }
    };
    let pod = Arc::downgrade(pod);
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(CONNECTION_LIMIT));
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let Ok(socket) = listener.accept().await else {
                return;
            };
            let Some(pod) = pod.upgrade() else { return };
            tokio::spawn(async move {
                connection(socket, pod).await;
                drop(place);
            });
        }
    });
}

/// A process a command is attached to.
#[derive(Debug, Clone)]
struct Attached {
    container: String,
    /// Empty: the container's first.
    exec: String,
    close_input: Arc<Notify>,
}

struct Connection {
    socket: AsyncSocket,
    pod: Arc<Pod>,
    // Held for a map operation only.
    attached: Mutex<HashMap<u64, Attached>>,
}

async fn connection(socket: AsyncSocket, pod: Arc<Pod>) {
    let connection = Arc::new(Connection {
        socket,
        pod,
        attached: Mutex::default(),
    });
    let mut calls = JoinSet::new();
    while let Ok(Some((call, fds))) = connection.socket.receive::<Call>().await {
        let own = Arc::clone(&connection);
        calls.spawn(async move {
            let number = call.number;
            let answer = own.answer(call, fds).await;
            own.reply(number, answer.unwrap_or_else(Answer::Failed))
                .await;
        });
        while calls.try_join_next().is_some() {}
    }
}

fn refused(failure: &Failure) -> Refused {
    Refused::new(failure.to_string())
}

fn of_agent(error: &AgentError) -> Refused {
    let exit_code = match error {
        AgentError::NotFound(_) => 127,
        AgentError::NotExecutable(_) => 126,
        _ => 125,
    };
    Refused {
        exit_code,
        text: error.to_string(),
    }
}

impl Connection {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Attached>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer that is too long is an answer too: somebody waits for it.
    async fn reply(&self, number: u64, answer: Answer) {
        if let Err(error) = self.socket.send(&Reply { number, answer }).await {
            let answer = Answer::Failed(Refused::new(error.to_string()));
            let _ = self.socket.send(&Reply { number, answer }).await;
        }
    }

    async fn answer(&self, call: Call, fds: Vec<OwnedFd>) -> Answered {
        match call.request {
            Request::Process { container } => self.process(&container),
            Request::Own { container, exec } => self.own(container, exec, fds),
            Request::GrowVolume { path, bytes } => {
                let grown = self.pod.grow_volume(&path, bytes).await;
                grown
                    .map(|()| Answer::Done)
                    .map_err(|failure| refused(&failure))
            }
            Request::Exec(spec, streams) => self.exec(call.number, *spec, streams, fds).await,
            Request::Debug(spec, streams) => self.debug(call.number, *spec, streams, fds).await,
            Request::Console(streams) => self.console(call.number, streams, fds).await,
            Request::Detach { attached } => {
                self.lock().remove(&attached);
                Ok(Answer::Done)
            }
            Request::Signal {
                attached,
                signal,
                all,
            } => {
                let own = self.find(attached)?;
                let container = self.sandbox()?.container(&own.container);
                let sent = container.signal(&own.exec, signal, all).await;
                sent.map(|()| Answer::Done).map_err(|e| of_agent(&e))
            }
            Request::Resize {
                attached,
                rows,
                columns,
            } => {
                let own = self.find(attached)?;
                let container = self.sandbox()?.container(&own.container);
                let resized = container.resize(&own.exec, rows, columns).await;
                resized.map(|()| Answer::Done).map_err(|e| of_agent(&e))
            }
            Request::Attach(_)
            | Request::Emulated
            | Request::Start
            | Request::Wait
            | Request::Pause
            | Request::Resume
            | Request::Stats
            | Request::Top => Err(Refused::new(
                "this is not for pods, which their container manager rules; see `ctr` or `crictl`",
            )),
        }
    }

    fn sandbox(&self) -> Result<Arc<Sandbox>, Refused> {
        self.pod.running().map_err(|failure| refused(&failure))
    }

    fn find(&self, attached: Option<u64>) -> Result<Attached, Refused> {
        let found = attached.and_then(|number| self.lock().get(&number).cloned());
        found.ok_or_else(|| Refused::new("no process is attached by that number"))
    }

    fn attach(&self, number: u64, attached: Attached) -> Result<(), Refused> {
        let mut map = self.lock();
        if map.len() >= ATTACHED_LIMIT {
            return Err(Refused::new(format!(
                "a command attaches to {ATTACHED_LIMIT} processes at most"
            )));
        }
        map.insert(number, attached);
        Ok(())
    }

    /// What a further process of a container is like, but for its command.
    fn process(&self, container: &str) -> Answered {
        let own = self.pod.with(container, |own| {
            if own.is_pod() {
                return Err(no_process_in_pod());
            }
            Ok(own.bundle().to_owned())
        });
        let bundle = own.map_err(|failure| refused(&failure))?;
        let spec = bulkhead_bundle::read(&bundle)
            .map_err(|error| Refused::new(bulkhead_provision::chain(&error)))?;
        let mut process = spec.process().clone().unwrap_or_default();
        // Of the host's security modules, which the guest does not have.
        process.set_apparmor_profile(None);
        process.set_selinux_label(None);
        Ok(Answer::Process(Box::new(process)))
    }

    /// Lets a process end with whoever stands for it on the host.
    fn own(&self, container: String, exec: String, fds: Vec<OwnedFd>) -> Answered {
        let process = self.pod.process(&container, &exec);
        let process = process.map_err(|failure| refused(&failure))?;
        let owner = fds.into_iter().next();
        let owner = owner.ok_or_else(|| Refused::new("the request lacks its descriptor"))?;
        let pod = Arc::clone(&self.pod);
        tokio::spawn(async move {
            let gone = tokio::select! {
                gone = readable(owner) => gone,
                _ = process.ended() => return,
            };
            if gone.is_ok() {
                tracing::info!(container, exec, "whoever had the process made is gone");
                // It may just have ended.
                let _ = pod.kill(&container, &exec, SIGKILL, exec.is_empty()).await;
            }
        });
        Ok(Answer::Done)
    }

    async fn exec(
        &self,
        number: u64,
        spec: ExecSpec,
        streams: Streams,
        fds: Vec<OwnedFd>,
    ) -> Answered {
        let ends = ends(streams, fds)?;
        let filter = self.pod.with(&spec.container, |own| match own.is_pod() {
            true => Err(no_process_in_pod()),
            false => Ok(own.seccomp.clone()),
        });
        let filter = filter.map_err(|failure| refused(&failure))?;
        let sandbox = self.sandbox()?;
        let attached = Attached {
            container: spec.container,
            exec: fresh_name("exec"),
            close_input: Arc::default(),
        };
        let config = ExecConfig {
            id: attached.exec.clone(),
            stdio: StdioConfig {
                stdin: streams.stdin,
                terminal: spec.process.terminal().unwrap_or(false),
                size: spec.size,
            },
            process: spec.process,
            user: spec.user,
            seccomp: if spec.privileged { Vec::new() } else { filter },
            archive: spec.archive.map(archive),
        };
        self.attach(number, attached.clone())?;
        let streams = sandbox.exec(&attached.container, config).await;
        let streams = streams.map_err(|error| of_agent(&error))?;
        let pumps = Pumps::start(ends, streams, Arc::clone(&attached.close_input));
        self.reply(number, Answer::Done).await;
        Ok(ended(&sandbox, &attached.container, &attached.exec, pumps).await)
    }

    async fn debug(
        &self,
        number: u64,
        spec: DebugSpec,
        streams: Streams,
        fds: Vec<OwnedFd>,
    ) -> Answered {
        self.allow_debug()?;
        let ends = ends(streams, fds)?;
        let stdio = StdioConfig {
            stdin: streams.stdin,
            terminal: spec.terminal,
            size: spec.size,
        };
        let made = self.pod.debug(&spec, stdio).await;
        let (debugged, streams) = made.map_err(|failure| refused(&failure))?;
        let attached = Attached {
            container: debugged.id().to_owned(),
            exec: String::new(),
            close_input: Arc::default(),
        };
        self.attach(number, attached.clone())?;
        let pumps = Pumps::start(ends, streams, Arc::clone(&attached.close_input));
        let started = debugged.start().await;
        started.map_err(|error| of_agent(&error))?;
        self.reply(number, Answer::Done).await;
        let answer = ended(debugged.sandbox(), debugged.id(), "", pumps).await;
        debugged.remove().await;
        Ok(answer)
    }

    fn allow_debug(&self) -> Result<(), Refused> {
        if self.pod.lock().debug {
            return Ok(());
        }
        Err(Refused::new(
            "the configuration the pod was started with says `debug = false`; pods started after \
             a change of it can be debugged",
        ))
    }

    async fn console(&self, number: u64, streams: Streams, fds: Vec<OwnedFd>) -> Answered {
        self.allow_debug()?;
        let failed = |error: std::io::Error| Refused::new(error.to_string());
        let pipes = Pipes::new(streams, fds).map_err(failed)?;
        // Of a machine that ended, too.
        let booted = self.pod.boot.borrow().clone();
        let Some(Ok(sandbox)) = booted else {
            return Err(Refused::new("the pod's machine has not started"));
        };
        let lines = sandbox.console().last(LINES_KEPT);
        self.reply(number, Answer::Done).await;
        if let Some(mut out) = pipes.stdout {
            for line in lines {
                out.write_all(format!("{line}\n").as_bytes())
                    .await
                    .map_err(failed)?;
            }
        }
        Ok(Answer::Exited {
            code: 0,
            reason: None,
        })
    }
}

/// Files to move, in the agent's words.
fn archive(own: bulkhead_control::Archive) -> bulkhead_sandbox::Archive {
    bulkhead_sandbox::Archive {
        extract: own.extract,
        path: own.path,
        name: own.name,
        ..Default::default()
    }
}

fn ends(streams: Streams, fds: Vec<OwnedFd>) -> Result<Ends, Refused> {
    let pipes = Pipes::new(streams, fds).map_err(|error| Refused::new(error.to_string()))?;
    Ok(Ends::of(pipes))
}

/// Sees a process to its end; what it wrote arrives before.
async fn ended(sandbox: &Sandbox, id: &str, exec: &str, pumps: Pumps) -> Answer {
    let container = sandbox.container(id);
    let exit = tokio::select! {
        biased;
        exit = container.wait(exec) => exit.ok(),
        _ = sandbox.ended() => None,
    };
    pumps.finish(None).await;
    let lost = || Answer::Exited {
        code: LOST,
        reason: Some("the pod's machine ended".to_owned()),
    };
    exit.map_or_else(lost, |exit| Answer::Exited {
        code: exit.status.into(),
        reason: None,
    })
}

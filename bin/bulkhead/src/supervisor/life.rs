//! A container's life.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_provision::monitor::Monitor;
use bulkhead_provision::{helper, settle};
use bulkhead_sandbox::{
    AgentError, Container, ContainerConfig, Exit, HostStdio, Sandbox, SandboxConfig, Timing,
};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

use super::log::Log;
use super::stdio::Hub;
use super::{boot, serve};
use crate::report;
use crate::state::record::RootfsSource;
use crate::state::{ContainerDir, Record, Root, State, StateError, Status, events, record};
use bulkhead_control::{AsyncSocket, Failure, Listener};

/// How long the guest may take to write its dirty pages to shared
/// directories.
const SYNC_GRACE: Duration = Duration::from_secs(10);

/// How long output may still flow once the machine is gone.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// Exit code when not the command but something under it ended.
const INFRASTRUCTURE: i32 = 255;

/// What the control server and the life share.
pub(super) struct Shared {
    pub(super) record: Record,
    pub(super) root: std::path::PathBuf,
    pub(super) hub: Arc<Hub>,
    /// Why the guest is emulated, if it is, once that is known.
    pub(super) emulated: watch::Sender<Option<Option<String>>>,
    /// The sandbox once it runs.
    pub(super) running: watch::Sender<Option<Running>>,
    /// The creator said that the command may run.
    pub(super) go: Notify,
    /// The creator left before it did.
    pub(super) abandoned: Notify,
    /// Answers to the creator's Start.
    pub(super) started: watch::Sender<Option<Result<(), Failure>>>,
    pub(super) ended: watch::Sender<Option<Ended>>,
    /// Calls that were not answered yet.
    pub(super) owed: watch::Sender<usize>,
    pub(super) state: tokio::sync::Mutex<StateFile>,
}

/// A sandbox and its container.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) container: Container,
}

/// How it all ended.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) reason: Option<String>,
    /// The machine or what it needs failed, not the command.
    broken: bool,
}

/// The state, in memory and on disk.
pub(super) struct StateFile {
    dir: ContainerDir,
    state: State,
}

impl StateFile {
    /// Changes the state and writes it.
    pub(super) fn update(&mut self, change: impl FnOnce(&mut State)) {
        change(&mut self.state);
        if let Err(error) = self.dir.write_state(&self.state) {
            tracing::error!(error = %report::chain(&error), "the state could not be written");
        }
    }

    pub(super) fn get(&self) -> &State {
        &self.state
    }
}

/// Runs the container in `dir`.
pub(super) async fn run(
    root: &Root,
    dir: &ContainerDir,
    creator: OwnedFd,
) -> Result<(), StateError> {
    let record = dir.record()?;
    let mut state = State::starting();
    state.supervisor_pid = std::process::id();
    dir.write_state(&state)?;
    let listener = Listener::bind(dir.path()).map_err(StateError::io("listen in", dir.path()))?;
    let shared = Arc::new(Shared {
        record,
        root: root.path().to_owned(),
        hub: Arc::default(),
        emulated: watch::Sender::new(None),
        running: watch::Sender::new(None),
        go: Notify::new(),
        abandoned: Notify::new(),
        started: watch::Sender::new(None),
        ended: watch::Sender::new(None),
        owed: watch::Sender::new(0),
        state: tokio::sync::Mutex::new(StateFile {
            dir: dir.clone(),
            state,
        }),
    });
    events::emit(root.path(), &shared.record, "create", None);
    let creator = AsyncSocket::new(creator).map_err(StateError::io("talk in", dir.path()))?;
    let (creator_done, creator_left) = oneshot::channel();
    tokio::spawn(serve::creator(creator, Arc::clone(&shared), creator_done));
    tokio::spawn(serve::listen(listener, Arc::clone(&shared)));

    let ended = live(&shared, dir).await;
    finish(&shared, root, dir, ended).await;
    // The last answers have to leave before this process does.
    let mut owed = shared.owed.subscribe();
    let answered = async {
        let _ = creator_left.await;
        let _ = owed.wait_for(|calls| *calls == 0).await;
    };
    let _ = tokio::time::timeout(DRAIN_GRACE, answered).await;
    Ok(())
}

async fn live(shared: &Arc<Shared>, dir: &ContainerDir) -> Ended {
    let (running, stdio, mut resources) = match bring_up(shared, dir).await {
        Ok(up) => up,
        Err(failure) => return failed(shared, failure),
    };
    let log = shared
        .record
        .keep_log
        .then(|| Log::open(&dir.file("log")))
        .transpose();
    let log = log.unwrap_or_else(|error| {
        tracing::warn!(%error, "the log could not be opened");
        None
    });
    let pumps = shared.hub.start(stdio, log).await;
    shared.running.send_replace(Some(running.clone()));
    let ended = tokio::select! {
        biased;
        ended = lead(shared, &running) => ended,
        text = helper::failure(&mut resources.helpers) => failed(shared, lost(text)),
    };
    drain(shared, &running, pumps, &ended).await;
    // The lease on the image and the helpers end here.
    drop(resources);
    ended
}

/// Starts the command when its creator says so, and sees it to its end.
async fn lead(shared: &Arc<Shared>, running: &Running) -> Ended {
    let before = Instant::now();
    let go = tokio::select! {
        () = shared.go.notified() => Ok(()),
        () = shared.abandoned.notified() => Err(abandoned()),
    };
    let started = match go {
        Ok(()) => execute(shared, running, before.elapsed()).await,
        Err(failure) => Err(failure),
    };
    match started {
        Ok(()) => until_end(running).await,
        Err(failure) => failed(shared, failure),
    }
}

/// The end of a container whose sandbox failed, told to a creator that waits.
fn failed(shared: &Shared, failure: Failure) -> Ended {
    let ended = Ended {
        code: failure.exit_code,
        reason: Some(failure.text.clone()),
        broken: true,
    };
    shared.started.send_if_modified(|started| {
        let waits = started.is_none();
        if waits {
            *started = Some(Err(failure));
        }
        waits
    });
    ended
}

fn abandoned() -> Failure {
    lost("its creator was killed before it started".to_owned())
}

fn lost(text: String) -> Failure {
    Failure {
        exit_code: INFRASTRUCTURE,
        text,
    }
}

async fn bring_up(
    shared: &Arc<Shared>,
    dir: &ContainerDir,
) -> Result<(Running, HostStdio, boot::Resources), Failure> {
    let start = Instant::now();
    let planned = boot::plan(&shared.record, dir);
    let reason = |(monitor, _): &(Monitor, _)| monitor.emulated().map(str::to_owned);
    let emulated = planned.as_ref().ok().and_then(reason);
    shared.emulated.send_replace(Some(emulated));
    let (monitor, plan) = planned?;
    let prepared = start.elapsed();
    let boot::Plan {
        sandbox,
        container,
        mut resources,
    } = plan;
    let boot = boot_sandbox(shared, &monitor, sandbox, container, prepared);
    let (running, stdio) = tokio::select! {
        biased;
        up = boot => up?,
        text = helper::failure(&mut resources.helpers) => return Err(lost(text)),
        // A machine nobody waits for is not brought up to its end.
        () = shared.abandoned.notified() => return Err(abandoned()),
    };
    Ok((running, stdio, resources))
}

async fn boot_sandbox(
    shared: &Arc<Shared>,
    monitor: &Monitor,
    sandbox: SandboxConfig,
    container: ContainerConfig,
    prepared: Duration,
) -> Result<(Running, HostStdio), Failure> {
    let accelerator = monitor.describe();
    let sandbox = Sandbox::start(monitor.hypervisor(), sandbox)
        .await
        .map_err(|error| Failure {
            exit_code: 125,
            text: error.to_string(),
        })?;
    let sandbox = Arc::new(sandbox);
    let mut timings = vec![
        ("image".to_owned(), shared.record.image_micros),
        ("prepare".to_owned(), micros(prepared)),
    ];
    timings.extend(sandbox.timings().iter().map(named));
    let vmm_pid = sandbox.vmm_pid();
    let kernel = sandbox.hello().kernel_release.clone();
    shared.state.lock().await.update(|state| {
        state.vmm_pid = vmm_pid;
        state.guest_kernel = kernel;
        state.accelerator = accelerator;
    });
    let created = tokio::select! {
        created = sandbox.create_container(container) => created.map_err(|e| refusal(&e)),
        exit = sandbox.ended() => Err(died(&sandbox, &exit.to_string())),
    };
    let (container, stdio, phases) = created?;
    timings.extend(phases.iter().map(named));
    shared
        .state
        .lock()
        .await
        .update(|state| state.timings = timings);
    Ok((Running { sandbox, container }, stdio))
}

async fn execute(shared: &Arc<Shared>, running: &Running, waited: Duration) -> Result<(), Failure> {
    let start = Instant::now();
    tokio::select! {
        started = running.container.start() => started.map_err(|e| refusal(&e))?,
        exit = running.sandbox.ended() => {
            return Err(died(&running.sandbox, &exit.to_string()));
        }
    }
    let mut file = shared.state.lock().await;
    file.update(|state| {
        state.status = Status::Running;
        state.started = record::now();
        state.timings.push(("wait".to_owned(), micros(waited)));
        state
            .timings
            .push(("exec".to_owned(), micros(start.elapsed())));
    });
    events::emit(&shared.root, &shared.record, "start", Some(file.get()));
    drop(file);
    shared.started.send_replace(Some(Ok(())));
    settle::soon();
    Ok(())
}

async fn until_end(running: &Running) -> Ended {
    let exit = tokio::select! {
        biased;
        exit = running.container.wait("") => exit.ok(),
        _ = running.sandbox.ended() => None,
    };
    match exit {
        Some(Exit {
            status, oom_killed, ..
        }) => Ended {
            code: status.into(),
            reason: oom_killed.then(|| {
                "killed by the guest's kernel: out of memory (the limit is set with --memory)"
                    .to_owned()
            }),
            broken: false,
        },
        None => {
            let exit = running.sandbox.ended().await;
            let failure = died(&running.sandbox, &exit.to_string());
            Ended {
                code: INFRASTRUCTURE,
                reason: Some(failure.text),
                broken: true,
            }
        }
    }
}

/// Brings the output home and ends the machine.
async fn drain(shared: &Arc<Shared>, running: &Running, pumps: Vec<JoinHandle<()>>, ended: &Ended) {
    let output = async {
        for pump in pumps {
            let _ = pump.await;
        }
    };
    if ended.broken {
        running.sandbox.kill();
        let _ = tokio::time::timeout(DRAIN_GRACE, output).await;
    } else {
        tokio::select! {
            () = output => {},
            _ = running.sandbox.ended() => {},
        }
    }
    shared.hub.close().await;
    let shares = !shared.record.volumes.is_empty()
        || matches!(shared.record.rootfs, RootfsSource::Directory(_));
    if ended.broken || !shares {
        // Nothing of the guest outlives it: no need to be polite.
        running.sandbox.kill();
        running.sandbox.ended().await;
    } else {
        running.sandbox.shut_down(SYNC_GRACE).await;
    }
}

async fn finish(shared: &Arc<Shared>, root: &Root, dir: &ContainerDir, ended: Ended) {
    let _ = std::fs::remove_file(dir.file("control.sock"));
    let _ = std::fs::remove_file(dir.file("writable.img"));
    let mut file = shared.state.lock().await;
    file.update(|state| {
        state.vmm_pid = 0;
        state.oom_killed = ended
            .reason
            .as_deref()
            .is_some_and(|r| r.contains("out of memory"));
        state.exit(ended.code, ended.reason.clone());
    });
    events::emit(root.path(), &shared.record, "die", Some(file.get()));
    drop(file);
    if shared.record.auto_remove {
        if let Err(error) = root.remove(dir) {
            tracing::error!(error = %report::chain(&error), "the container could not be removed");
        }
        events::emit(root.path(), &shared.record, "remove", None);
    }
    shared.ended.send_replace(Some(ended));
}

fn died(sandbox: &Sandbox, exit: &str) -> Failure {
    let lines = sandbox.console().last(10);
    let quoted = if lines.is_empty() {
        String::new()
    } else {
        format!(
            "\nlast lines of the guest console:\n  | {}",
            lines.join("\n  | ")
        )
    };
    Failure {
        exit_code: INFRASTRUCTURE,
        text: format!("{exit}{quoted}"),
    }
}

/// What the agent refused, with the exit code Podman gives it.
pub(super) fn refusal(error: &AgentError) -> Failure {
    let exit_code = match error {
        AgentError::NotFound(_) => 127,
        AgentError::NotExecutable(_) => 126,
        AgentError::Gone(_) => INFRASTRUCTURE,
        _ => 125,
    };
    Failure {
        exit_code,
        text: error.to_string(),
    }
}

fn named(timing: &Timing) -> (String, u64) {
    (timing.phase.to_owned(), micros(timing.took))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

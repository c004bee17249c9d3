//! A pod: one machine, its containers, their processes.
//!
//! ```text
//!   create(pod) ─▶ prepare ─▶ live ──┬─ boots, in the background
//!                                    ├─ waits: machine ended, helper failed,
//!                                    │         or the pod is to stop
//!                                    └─ everything that ran is stopped
//!   create(container) ─▶ waits for the boot ─▶ shares ─▶ agent
//! ```

mod container;
mod exec;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_provision::helper;
use bulkhead_sandbox::{Sandbox, Stats};
use bulkhead_share::Pod as Share;
use containerd_shim_protos::api::{CreateTaskRequest, Mount};
use containerd_shim_protos::events::task as event;
use oci_spec::runtime::{LinuxResources, Spec};
use protobuf::MessageField;
use tokio::sync::{Notify, watch};

use crate::args::Args;
use crate::config::{self, Config};
use crate::events::{Event, Publisher};
use crate::failure::{Failure, Outcome};
use crate::machine::{self, Machine};
use crate::place::Place;
use crate::process::{Exit, Process, Status};
use crate::spec::{self, Kind, Size};
use crate::stdio::Paths;

pub(crate) use container::Container;

/// How long a guest may take to write what its containers wrote to shared
/// directories.
const SYNC_GRACE: Duration = Duration::from_secs(10);

/// Console lines quoted when a machine ends by itself.
const QUOTED_LINES: usize = 10;

/// Exit code of what ran when the machine ended.
const LOST: u32 = 255;

/// What became of the boot.
type Boot = Option<Result<Arc<Sandbox>, String>>;

/// One pod; the process's whole state.
pub(crate) struct Pod {
    place: Place,
    publisher: Mutex<Option<Publisher>>,
    boot: watch::Sender<Boot>,
    /// Ends the machine.
    stop: Notify,
    /// The life of the machine is over and told.
    over: watch::Sender<bool>,
    shutdown: Notify,
    // Held for map operations and the share's mounts, never across an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    containers: HashMap<String, Container>,
    share: Option<Share>,
    size: Option<Size>,
    sysctls: HashMap<String, String>,
    /// Why the machine ended.
    reason: Option<String>,
    /// The signal the pod was stopped with.
    signal: Option<u32>,
    /// Names given out in the share.
    names: u64,
}

/// What containerd says of a new container.
struct Request {
    id: String,
    bundle: PathBuf,
    rootfs: Vec<Mount>,
    paths: Paths,
    spec: Spec,
}

impl Pod {
    /// A pod without a machine.
    pub(crate) fn new(args: &Args, publisher: Publisher) -> Self {
        Self {
            place: Place::of(&args.namespace, &args.id),
            publisher: Mutex::new(Some(publisher)),
            boot: watch::Sender::new(None),
            stop: Notify::new(),
            over: watch::Sender::new(false),
            shutdown: Notify::new(),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, event: Event) {
        let publisher = self
            .publisher
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(publisher) = publisher.as_ref() {
            publisher.publish(event);
        }
    }

    /// Answers when containerd wants this process to end.
    pub(crate) async fn until_shutdown(&self) {
        self.shutdown.notified().await;
    }

    /// Ends the machine and delivers the last events.
    pub(crate) async fn close(&self) {
        self.end_machine().await;
        let publisher = self
            .publisher
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(publisher) = publisher {
            publisher.close().await;
        }
    }

    /// containerd's Shutdown: refused by silence while containers are left.
    pub(crate) fn shut_down(&self, now: bool) {
        if now || self.lock().containers.is_empty() {
            self.shutdown.notify_one();
        }
    }

    /// Makes a container, or the pod itself. Answers a process id of the host.
    pub(crate) async fn create(self: &Arc<Self>, request: CreateTaskRequest) -> Outcome<u32> {
        let id = request.id.clone();
        bulkhead_protocol::name::check(&id).map_err(|e| Failure::invalid(e.to_string()))?;
        if self.lock().containers.contains_key(&id) {
            return Err(Failure::exists(format!("the container `{id}` exists")));
        }
        if !request.checkpoint.is_empty() {
            return Err(Failure::unimplemented(
                "a container in a virtual machine cannot be restored from a checkpoint",
            ));
        }
        let bundle = PathBuf::from(&request.bundle);
        let spec =
            spec::read(&bundle).map_err(|e| Failure::invalid(bulkhead_provision::chain(&e)))?;
        let options = request.options.as_ref();
        let path = options.and_then(|any| config::path_in_options(&any.type_url, &any.value));
        let created = event::TaskCreate {
            container_id: id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: MessageField::some(event::TaskIO {
                stdin: request.stdin.clone(),
                stdout: request.stdout.clone(),
                stderr: request.stderr.clone(),
                terminal: request.terminal,
                ..Default::default()
            }),
            pid: std::process::id(),
            ..Default::default()
        };
        let kind = spec::kind(&spec);
        if kind != Kind::Pod {
            // What can be refused is refused before a machine is started.
            spec::adapt(spec.clone(), &HashMap::new())?;
        }
        let request = Request {
            id,
            bundle,
            rootfs: request.rootfs,
            paths: Paths {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
            spec,
        };
        match kind {
            Kind::Pod => self.create_pod(request, path.as_deref())?,
            Kind::Member { .. } => self.create_container(request).await?,
            Kind::Single => {
                self.begin(&request.spec, path.as_deref())?;
                let made = self.create_container(request).await;
                if made.is_err() {
                    self.end_machine().await;
                }
                made?;
            }
        }
        self.publish(Event::Create(created));
        Ok(std::process::id())
    }

    fn create_pod(self: &Arc<Self>, request: Request, config: Option<&str>) -> Outcome<()> {
        self.begin(&request.spec, config)?;
        let process = Process::new(request.paths, None);
        let container = Container::pod(request.bundle, process);
        self.lock().containers.insert(request.id, container);
        Ok(())
    }

    /// Prepares the machine and lets it boot.
    fn begin(self: &Arc<Self>, spec: &Spec, config: Option<&str>) -> Outcome<()> {
        if self.lock().share.is_some() {
            return Err(Failure::state("the pod has its machine already"));
        }
        let config =
            Config::load(config).map_err(|e| Failure::invalid(bulkhead_provision::chain(&e)))?;
        let mut machine = machine::prepare(spec, &config, &self.place)?;
        if let Some(reason) = machine.monitor.emulated() {
            tracing::warn!(
                reason,
                "no usable KVM: the guest is emulated, slow and no boundary"
            );
        }
        let network = machine.take_network();
        let Machine {
            monitor,
            config,
            helpers,
            share,
            size,
            ..
        } = machine;
        {
            let mut state = self.lock();
            state.share = Some(share);
            state.size = Some(size);
            state.sysctls = spec::sysctls(spec);
        }
        let pod = Arc::clone(self);
        tokio::spawn(async move {
            let mut helpers = helpers;
            let start = Sandbox::start(monitor.hypervisor(), config);
            let reason = pod.live(start, &mut helpers).await;
            drop((helpers, network));
            pod.ended(reason);
        });
        Ok(())
    }

    /// The machine from its start to its end; why it ended.
    async fn live(
        &self,
        start: impl Future<Output = Result<Sandbox, bulkhead_sandbox::StartError>>,
        helpers: &mut [bulkhead_provision::Helper],
    ) -> String {
        let started = tokio::select! {
            biased;
            () = self.stop.notified() => Err("the pod was stopped while it started".to_owned()),
            started = start => started.map_err(|error| error.to_string()),
            text = helper::failure(helpers) => Err(text),
        };
        let sandbox = match started {
            Ok(sandbox) => Arc::new(sandbox),
            Err(text) => {
                self.boot.send_replace(Some(Err(text.clone())));
                return text;
            }
        };
        for timing in sandbox.timings() {
            tracing::info!(phase = timing.phase, took = ?timing.took, "started");
        }
        self.boot.send_replace(Some(Ok(Arc::clone(&sandbox))));
        tokio::select! {
            biased;
            () = self.stop.notified() => {
                sandbox.shut_down(SYNC_GRACE).await;
                "the pod was stopped".to_owned()
            }
            exit = sandbox.ended() => {
                let lines = sandbox.console().last(QUOTED_LINES);
                let mut text = exit.to_string();
                for line in lines {
                    text.push_str("\n  | ");
                    text.push_str(&line);
                }
                text
            }
            text = helper::failure(helpers) => {
                sandbox.kill();
                sandbox.ended().await;
                text
            }
        }
    }

    /// Tells everybody that the machine is gone.
    fn ended(&self, reason: String) {
        tracing::info!(reason, "the machine ended");
        let (waiting, code) = {
            let mut state = self.lock();
            state.reason = Some(reason);
            // What the server served went with it.
            let waiting: Vec<_> = state
                .containers
                .iter()
                .filter(|(_, container)| container.is_pod())
                .map(|(id, container)| (id.clone(), Arc::clone(container.main())))
                .collect();
            (waiting, state.signal.map_or(LOST, |signal| 128 + signal))
        };
        self.over.send_replace(true);
        for (id, process) in waiting {
            self.stopped(&id, "", &process, Exit::now(code));
        }
    }

    /// Ends the machine and waits until that is done. Nothing happens when
    /// there is none.
    async fn end_machine(&self) {
        if self.lock().share.is_none() {
            return;
        }
        self.stop.notify_one();
        let mut over = self.over.subscribe();
        let _ = over.wait_for(|over| *over).await;
    }

    /// The machine, once it has booted.
    async fn booted(&self) -> Outcome<Arc<Sandbox>> {
        let mut boot = self.boot.subscribe();
        let booted = boot.wait_for(Option::is_some).await;
        match booted.as_deref() {
            Ok(Some(Ok(sandbox))) => Ok(Arc::clone(sandbox)),
            Ok(Some(Err(text))) => Err(Failure::internal(format!("the pod did not start: {text}"))),
            _ => Err(Failure::gone("the pod is ending")),
        }
    }

    /// The machine, if it runs.
    fn running(&self) -> Outcome<Arc<Sandbox>> {
        if *self.over.borrow() {
            let reason = self.lock().reason.clone().unwrap_or_default();
            return Err(Failure::gone(format!("the pod has ended: {reason}")));
        }
        match &*self.boot.borrow() {
            Some(Ok(sandbox)) => Ok(Arc::clone(sandbox)),
            Some(Err(text)) => Err(Failure::internal(format!("the pod did not start: {text}"))),
            None => Err(Failure::state("the pod is still starting")),
        }
    }

    /// Marks a process as ended and tells containerd, once.
    fn stopped(&self, id: &str, exec: &str, process: &Process, exit: Exit) {
        let told = event::TaskExit {
            container_id: id.to_owned(),
            id: if exec.is_empty() { id } else { exec }.to_owned(),
            pid: std::process::id(),
            exit_status: exit.code,
            exited_at: MessageField::some(exit.at.clone()),
            ..Default::default()
        };
        if process.stop(exit) {
            self.publish(Event::Exit(told));
        }
    }

    /// Works on a container.
    fn with<T>(&self, id: &str, work: impl FnOnce(&mut Container) -> Outcome<T>) -> Outcome<T> {
        let mut state = self.lock();
        let container = state
            .containers
            .get_mut(id)
            .ok_or_else(|| Failure::missing(format!("there is no container `{id}` in this pod")))?;
        work(container)
    }

    /// A process of a container; an empty `exec` is its first.
    pub(crate) fn process(&self, id: &str, exec: &str) -> Outcome<Arc<Process>> {
        self.with(id, |container| container.process(exec))
    }

    /// Its bundle, and whether it is paused.
    pub(crate) fn bundle(&self, id: &str) -> Outcome<(PathBuf, bool)> {
        self.with(id, |container| {
            Ok((container.bundle().to_owned(), container.paused))
        })
    }

    /// Lets a container's command, or a further one, be executed.
    pub(crate) async fn start(self: &Arc<Self>, id: &str, exec: &str) -> Outcome<()> {
        let process = self.process(id, exec)?;
        if process.status() != Status::Created {
            return Err(Failure::state(format!("`{id}` was started before")));
        }
        let is_pod = self.with(id, |container| Ok(container.is_pod()))?;
        match (is_pod, exec) {
            (true, "") => process.run(),
            (true, _) => return Err(no_process_in_pod()),
            (false, "") => {
                self.booted().await?.container(id).start().await?;
                process.run();
            }
            (false, exec) => return self.start_exec(id, exec, &process).await,
        }
        self.publish(Event::Start(event::TaskStart {
            container_id: id.to_owned(),
            pid: std::process::id(),
            ..Default::default()
        }));
        Ok(())
    }

    /// Sends a signal.
    pub(crate) async fn kill(
        self: &Arc<Self>,
        id: &str,
        exec: &str,
        signal: u32,
        all: bool,
    ) -> Outcome<()> {
        let process = self.process(id, exec)?;
        if matches!(process.status(), Status::Stopped(_)) {
            return Err(Failure::missing("process already finished"));
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
        let container = self.running()?.container(id);
        container.signal(exec, signal, all).await?;
        Ok(())
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

    /// Changes a container's limits.
    pub(crate) async fn update(&self, id: &str, resources: &LinuxResources) -> Outcome<()> {
        let memory = resources.memory().as_ref().and_then(|m| m.limit());
        let size = self.lock().size;
        if let (Some(limit), Some(size)) = (memory, size)
            && u64::try_from(limit).is_ok_and(|limit| limit > size.memory)
        {
            return Err(Failure::state(format!(
                "a memory limit of {limit} bytes is more than the pod's machine has ({}), which \
                 cannot grow while it runs; make the pod anew with the larger limit",
                size.memory
            )));
        }
        self.refuse_pod(id)?;
        self.running()?.container(id).update(resources).await?;
        Ok(())
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

    fn refuse_pod(&self, id: &str) -> Outcome<()> {
        self.with(id, |container| match container.is_pod() {
            true => Err(no_process_in_pod()),
            false => Ok(()),
        })
    }

    /// Forgets a process that has ended; of a container, everything.
    pub(crate) async fn delete(self: &Arc<Self>, id: &str, exec: &str) -> Outcome<Exit> {
        let process = self.process(id, exec)?;
        let exit = match process.status() {
            Status::Stopped(exit) => exit,
            Status::Created if !exec.is_empty() => Exit::now(0),
            Status::Created => self.give_up(id, &process).await?,
            Status::Running => {
                return Err(Failure::state(format!("`{id}` is running: kill it first")));
            }
        };
        if exec.is_empty() {
            self.remove_container(id).await?;
        } else {
            self.with(id, |container| {
                container.remove_exec(exec);
                Ok(())
            })?;
        }
        self.publish(Event::Delete(event::TaskDelete {
            container_id: id.to_owned(),
            id: exec.to_owned(),
            pid: std::process::id(),
            exit_status: exit.code,
            exited_at: MessageField::some(exit.at.clone()),
            ..Default::default()
        }));
        Ok(exit)
    }

    /// Ends what was never started.
    async fn give_up(&self, id: &str, process: &Arc<Process>) -> Outcome<Exit> {
        const KILL: u32 = 9;
        let is_pod = self.with(id, |container| Ok(container.is_pod()))?;
        if is_pod {
            self.end_machine().await;
        } else if let Ok(sandbox) = self.running() {
            sandbox.container(id).signal("", KILL, true).await?;
        }
        Ok(process.ended().await)
    }

    async fn remove_container(&self, id: &str) -> Outcome<()> {
        let alone = {
            let state = self.lock();
            state.containers.len() == 1
        };
        let is_pod = self.with(id, |container| Ok(container.is_pod()))?;
        if is_pod || alone {
            self.end_machine().await;
        } else if let Ok(sandbox) = self.running() {
            match sandbox.container(id).remove().await {
                // Gone with its machine.
                Ok(()) | Err(bulkhead_sandbox::AgentError::Gone(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let container = self.lock().containers.remove(id);
        for name in container.iter().flat_map(Container::shared) {
            if let Some(share) = self.lock().share.as_mut() {
                share.remove(name);
            }
        }
        Ok(())
    }
}

fn no_process_in_pod() -> Failure {
    Failure::invalid("the pod itself has no process: it is a virtual machine")
}

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
mod control;
mod creation;
mod debug;
mod direct;
mod disks;
mod exec;
mod grown;
mod growth;
mod life;
mod membership;
mod mirrors;
mod names;
mod ports;
mod removal;
mod sandbox;
mod status;
mod tasks;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bulkhead_bundle::{Growth, Hook, Hooks, Kind, Told};
use bulkhead_provision::{network, settle};
use bulkhead_sandbox::Sandbox;
use bulkhead_share::Pod as Share;
use bulkhead_status::Kubernetes;
use bulkhead_sys::cgroup::Origin;
use containerd_shim_protos::api::{CreateTaskRequest, Mount};
use containerd_shim_protos::events::task as event;
use oci_spec::runtime::Spec;
use protobuf::MessageField;
use tokio::sync::{Notify, watch};

use crate::args::Args;
use crate::events::{Event, Publisher};
use crate::failure::{Failure, Outcome};
use crate::hooks::{self, About};
use crate::layers::Layers;
use crate::logger::Owner;
use crate::machine::Networks;
use crate::options;
use crate::place::Place;
use crate::process::{Exit, Process, Status};
use crate::stand_in::StandIn;
use crate::stdio::Paths;
use crate::trace::{Call, Tracer};
use mirrors::Mirrors;

pub(crate) use container::Container;
use disks::Disks;

/// What became of the boot.
type Boot = Option<Result<Arc<Sandbox>, String>>;

/// One pod; the process's whole state.
pub(crate) struct Pod {
    id: String,
    namespace: String,
    caller: Caller,
    /// Seconds since the epoch.
    started: u64,
    place: Place,
    publisher: Mutex<Option<Publisher>>,
    boot: watch::Sender<Boot>,
    /// Ends the machine.
    stop: Notify,
    /// The life of the machine is over and told.
    over: watch::Sender<bool>,
    /// containerd's last word, and whether it is in a hurry.
    shutdown: watch::Sender<Option<Haste>>,
    /// The pod itself was deleted.
    deleted: watch::Sender<bool>,
    /// What is plugged into the machine.
    disks: Disks,
    /// Containers that are being made.
    creating: watch::Sender<HashSet<String>>,
    // Held for map operations and the share's mounts, never across an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    containers: HashMap<String, Container>,
    /// While the machine lives.
    share: Option<Share>,
    /// Whose the pod is.
    kubernetes: Option<Kubernetes>,
    /// Where the output of its containers is kept, if that is known.
    logs: Option<PathBuf>,
    /// CRI-O made it.
    of_crio: bool,
    /// It was made by the Sandbox API: it is no task to tell of.
    by_sandbox_api: bool,
    /// Commands may look into the guest.
    debug: bool,
    /// Where its calls are told of; none: nowhere.
    tracer: Option<Tracer>,
    /// How large the machine is and can be, once there was one.
    size: Option<Growth>,
    sysctls: HashMap<String, String>,
    /// The network namespace that was made for its container, which the container's
    /// manager fills: when.
    network: Option<(PathBuf, Networks)>,
    /// The control group above the machine's, where its containers belong too.
    group: Option<PathBuf>,
    /// Where this process was before it joined the pod's control group.
    origin: Option<Origin>,
    /// Why the machine ended.
    reason: Option<String>,
    /// The signal the pod was stopped with.
    signal: Option<u32>,
    /// Names given out in the share.
    names: u64,
    mirrors: Mirrors,
    /// Volumes that are disks.
    direct: Vec<direct::Known>,
    /// Where layers of snapshots may be had as images.
    layers: Option<Layers>,
}

/// Who asks for containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// A container manager, as containerd.
    Manager,
    /// `bulkhead create`, which no client of a manager can be: it hands over what it
    /// owns the pod by. Whose machine is whose it has looked up.
    Runtime,
}

/// How soon this process has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Haste {
    /// When all answers were taken.
    None,
    Now,
}

/// What containerd says of a new container.
struct Request {
    id: String,
    bundle: PathBuf,
    rootfs: Vec<Mount>,
    paths: Paths,
    spec: Spec,
    kind: Kind,
    hooks: Hooks,
    /// What stands for it, where that is there already.
    stand_in: Option<StandIn>,
    /// The network namespace that was made for it.
    network: Option<PathBuf>,
}

impl Request {
    /// Runs what is to run before there is a machine. Where the spec names no network
    /// namespace there is a new one for it, which the hooks may fill (docker's did), or
    /// who made the container with this runtime's command line.
    async fn run_hooks(&mut self, caller: Caller) -> Outcome<Networks> {
        let new = bulkhead_bundle::network(&self.spec).is_none();
        let networks = match (self.hooks.create.is_empty(), caller) {
            (true, Caller::Runtime) if new => Networks::Later,
            (true, _) => return Ok(Networks::First),
            (false, _) => Networks::First,
        };
        let stand_in = self.stand_in(new);
        let stand_in = stand_in.map_err(|error| Failure::from_error(&error))?;
        let about = About {
            id: &self.id,
            bundle: &self.bundle,
            pid: stand_in.pid(),
            status: "creating",
        };
        hooks::run(&self.hooks.create, about).await?;
        self.stand_in = Some(stand_in);
        Ok(networks)
    }

    /// What stands for the container, in a `new` network namespace or not.
    fn stand_in(&mut self, new: bool) -> std::io::Result<StandIn> {
        if !new {
            return StandIn::new();
        }
        let own = StandIn::with_network()?;
        let path = PathBuf::from(format!("/proc/{}/ns/net", own.pid()));
        bulkhead_bundle::set_network(&mut self.spec, path.clone());
        self.network = Some(path);
        Ok(own)
    }
}

impl Pod {
    /// A pod without a machine.
    pub(crate) fn new(args: &Args, publisher: Option<Publisher>) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            id: args.id.clone(),
            namespace: args.namespace.clone(),
            caller: match args.owner {
                Some(_) => Caller::Runtime,
                None => Caller::Manager,
            },
            started: now.map_or(0, |now| now.as_secs()),
            place: Place::of(&args.namespace, &args.id),
            publisher: Mutex::new(publisher),
            boot: watch::Sender::new(None),
            stop: Notify::new(),
            over: watch::Sender::new(false),
            shutdown: watch::Sender::new(None),
            deleted: watch::Sender::new(false),
            disks: Disks::default(),
            creating: watch::Sender::default(),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose the output of a container's processes is.
    fn owner<'a>(&'a self, id: &'a str) -> Owner<'a> {
        Owner {
            id,
            namespace: &self.namespace,
        }
    }

    /// Is it the pod itself, which is no task?
    fn is_untold(&self, id: &str) -> bool {
        id == self.id && self.lock().by_sandbox_api
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
    pub(crate) async fn until_shutdown(&self) -> Haste {
        let mut shutdown = self.shutdown.subscribe();
        let said = shutdown.wait_for(Option::is_some).await;
        // The sender lives as long as `self`.
        said.ok().and_then(|said| *said).unwrap_or(Haste::Now)
    }

    /// Ends the machine and delivers the last events.
    pub(crate) async fn close(&self) {
        self.end_machine().await;
        self.leave_cgroup();
        let publisher = self
            .publisher
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(publisher) = publisher {
            publisher.close().await;
        }
    }

    /// Answers when the pod itself was deleted.
    pub(crate) async fn until_deleted(&self) {
        let mut deleted = self.deleted.subscribe();
        // The sender lives as long as `self`.
        let _ = deleted.wait_for(|deleted| *deleted).await;
    }

    /// containerd's Shutdown: refused by silence while containers are left.
    pub(crate) fn shut_down(&self, now: bool) {
        let haste = match now {
            true => Haste::Now,
            false if self.lock().containers.is_empty() => Haste::None,
            false => return,
        };
        self.shutdown.send_replace(Some(haste));
    }

    /// The Sandbox API's Shutdown: whatever is left in the pod ends, but not before
    /// the answer was taken. containerd 2 takes a connection that closes instead for
    /// a failure, and keeps the sandbox.
    pub(crate) fn shut_down_answered(&self) {
        self.shutdown.send_replace(Some(Haste::None));
    }

    /// Makes a container, or the pod itself. Answers a process id of the host.
    pub(crate) async fn create(
        self: &Arc<Self>,
        request: CreateTaskRequest,
        call: &Call,
    ) -> Outcome<u32> {
        let id = request.id.clone();
        bulkhead_protocol::name::check(&id).map_err(|e| Failure::invalid(e.to_string()))?;
        let _creation = self.creation(&id)?;
        if !request.checkpoint.is_empty() {
            return Err(Failure::unimplemented(
                "a container in a virtual machine cannot be restored from a checkpoint",
            ));
        }
        let bundle = PathBuf::from(&request.bundle);
        let mut spec = bulkhead_bundle::read(&bundle)
            .map_err(|e| Failure::invalid(bulkhead_provision::chain(&e)))?;
        let options = request.options.as_ref();
        let path = options.and_then(|any| options::path_in_options(&any.type_url, &any.value));
        let mut created = event::TaskCreate {
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
            ..Default::default()
        };
        let kind = bulkhead_bundle::kind(&spec).map_err(|e| Failure::invalid(e.to_string()))?;
        self.refuse_stranger(&kind, &spec)?;
        // Whoever makes a container on its own may have programs of the host beside it.
        let hooks = match kind {
            Kind::Single => bulkhead_bundle::take_hooks(&mut spec)?,
            Kind::Pod | Kind::Member { .. } => Hooks::default(),
        };
        if kind != Kind::Pod {
            // What can be refused is refused before a machine is started.
            bulkhead_bundle::adapt(spec.clone(), &HashMap::new(), &self.told())?;
        }
        let mut request = Request {
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
            kind,
            hooks,
            stand_in: None,
            network: None,
        };
        created.pid = match request.kind {
            Kind::Pod => self.create_pod(request, path.as_deref(), call)?,
            Kind::Member { .. } => self.create_container(request, call).await?,
            Kind::Single => {
                let networks = request.run_hooks(self.caller).await?;
                self.begin(&request.spec, path.as_deref(), networks, call)?;
                self.lock().network = request.network.take().map(|path| (path, networks));
                let made = self.create_container(request, call).await;
                if made.is_err() {
                    self.end_machine().await;
                }
                made?
            }
        };
        let pid = created.pid;
        self.publish(Event::Create(created));
        Ok(pid)
    }

    fn create_pod(
        self: &Arc<Self>,
        request: Request,
        config: Option<&str>,
        call: &Call,
    ) -> Outcome<u32> {
        self.begin(&request.spec, config, Networks::First, call)?;
        let process = Process::new(request.paths, None);
        let container = Container::pod(request.bundle, process);
        let pid = container.pid();
        self.lock().containers.insert(request.id, container);
        Ok(pid)
    }

    /// Marks a process as ended and tells containerd, once.
    fn stopped(&self, id: &str, exec: &str, process: &Process, exit: Exit) {
        let told = event::TaskExit {
            container_id: id.to_owned(),
            id: if exec.is_empty() { id } else { exec }.to_owned(),
            pid: self.pid(id),
            exit_status: exit.code,
            exited_at: MessageField::some(exit.at.clone()),
            ..Default::default()
        };
        if process.stop(exit) && !self.is_untold(id) {
            self.publish(Event::Exit(told));
        }
    }

    /// The process id containerd was told of a container: after it is gone,
    /// this process's.
    pub(crate) fn pid(&self, id: &str) -> u32 {
        let state = self.lock();
        let own = state.containers.get(id).map(Container::pid);
        own.unwrap_or_else(std::process::id)
    }

    /// All the process ids containerd was told.
    fn told(&self) -> Told {
        let state = self.lock();
        let members = state.containers.iter().filter(|(_, own)| !own.is_pod());
        Told {
            pod: std::process::id(),
            containers: members.map(|(id, own)| (own.pid(), id.clone())).collect(),
        }
    }

    /// Tells of a call that has ended.
    pub(crate) fn traced(&self, call: &Call, id: &str, failure: Option<&Failure>) {
        let tracer = self.lock().tracer.clone();
        if let Some(tracer) = tracer {
            let container = (id != self.id).then_some(id);
            tracer.ended(call, container, failure.map(ToString::to_string));
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
        let _starting = process.starting.lock().await;
        if process.status() != Status::Created {
            return Err(Failure::state(format!("`{id}` was started before")));
        }
        let is_pod = self.with(id, |container| Ok(container.is_pod()))?;
        match (is_pod, exec) {
            (true, "") => process.run(),
            (true, _) => return Err(no_process_in_pod()),
            (false, "") => {
                let sandbox = self.booted().await?;
                self.connect_network(&sandbox).await?;
                sandbox.container(id).start().await?;
                process.run();
                self.run_late_hooks(id, "running", |hooks| &hooks.started)
                    .await;
            }
            (false, exec) => return self.start_exec(id, exec, &process).await,
        }
        if !self.is_untold(id) {
            self.publish(Event::Start(event::TaskStart {
                container_id: id.to_owned(),
                pid: self.pid(id),
                ..Default::default()
            }));
        }
        settle::soon();
        Ok(())
    }

    /// Joins the machine to the networks that came after it, and asks for names where
    /// those have a name server that only their host can reach.
    async fn connect_network(&self, sandbox: &Sandbox) -> Outcome<()> {
        let Some((path, networks)) = self.lock().network.clone() else {
            return Ok(());
        };
        if networks == Networks::Later {
            let network = network::connect(&path, self.place.key());
            let network = network.map_err(|error| Failure::from_error(&error))?;
            sandbox.connect_network(&network).await?;
        }
        names::serve(sandbox, &path).await?;
        self.lock().network = None;
        Ok(())
    }

    /// Runs hooks of a container whose failure changes nothing.
    async fn run_late_hooks(
        &self,
        id: &str,
        status: &'static str,
        which: fn(&Hooks) -> &Vec<Hook>,
    ) {
        let known = self.with(id, |own| {
            let hooks = which(&own.hooks).clone();
            Ok((hooks, own.bundle().to_owned(), own.pid()))
        });
        if let Ok((list, bundle, pid)) = known {
            let about = About {
                id,
                bundle: &bundle,
                pid,
                status,
            };
            hooks::run_late(&list, about).await;
        }
    }

    fn refuse_pod(&self, id: &str) -> Outcome<()> {
        self.with(id, |container| match container.is_pod() {
            true => Err(no_process_in_pod()),
            false => Ok(()),
        })
    }
}

fn no_process_in_pod() -> Failure {
    Failure::invalid("the pod itself has no process: it is a virtual machine")
}

//! Containers of a pod: how they come to be, and how their first process ends.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_bundle::{Adapted, Bind, Hooks, Kind, Overlay};
use bulkhead_provision::seccomp;
use bulkhead_sandbox::{AgentError, ContainerConfig, MemoryVolume, Rootfs, Sandbox, Volume};
use bulkhead_share::Detached;
use containerd_shim_protos::events::task as event;
use oci_spec::runtime::LinuxResources;
use rustix::fs::{Mode, OFlags};

use super::direct;
use super::disks::{self, Use};
use super::life::LOST;
use super::{Caller, Pod, Request};
use crate::events::Event;
use crate::failure::{Failure, Outcome};
use crate::layers::Layers;
use crate::process::{Exit, Process};
use crate::rootfs::{self, Image, Opened, Root};
use crate::stand_in::StandIn;
use crate::stdio::{self, Pumps};
use crate::trace::Call;
use crate::{machine, memory};

/// A container, or the pod itself.
pub(crate) struct Container {
    bundle: PathBuf,
    /// Its name in the pod, where there is one.
    pub(super) name: Option<String>,
    /// Where its output is kept, if that is known.
    pub(super) log: Option<PathBuf>,
    is_pod: bool,
    main: Arc<Process>,
    execs: HashMap<String, Arc<Process>>,
    /// Its names in the share.
    shared: Vec<String>,
    /// Its disks.
    disks: Vec<Use>,
    pub(super) hooks: Hooks,
    /// Compiled filter, which further processes get too.
    pub(super) seccomp: Vec<u8>,
    /// Its limits as containerd told them.
    resources: Option<LinuxResources>,
    pub(crate) paused: bool,
    /// None for the pod itself, which this process stands for.
    stand_in: Option<StandIn>,
}

impl Container {
    /// The pod itself.
    pub(super) fn pod(bundle: PathBuf, main: Arc<Process>) -> Self {
        Self {
            bundle,
            name: None,
            log: None,
            is_pod: true,
            main,
            execs: HashMap::new(),
            shared: Vec::new(),
            disks: Vec::new(),
            hooks: Hooks::default(),
            seccomp: Vec::new(),
            resources: None,
            paused: false,
            stand_in: None,
        }
    }

    pub(super) fn is_pod(&self) -> bool {
        self.is_pod
    }

    /// The process id of the host that stands for it.
    pub(super) fn pid(&self) -> u32 {
        let own = self.stand_in.as_ref().map(StandIn::pid);
        own.unwrap_or_else(std::process::id)
    }

    pub(super) fn main(&self) -> &Arc<Process> {
        &self.main
    }

    pub(super) fn bundle(&self) -> &Path {
        &self.bundle
    }

    pub(super) fn resources(&self) -> Option<&LinuxResources> {
        self.resources.as_ref()
    }

    /// Its limits are these from now on, as far as they say something.
    pub(super) fn set_limits(&mut self, told: &LinuxResources) {
        self.resources = Some(self.limits_with(told));
    }

    /// Its limits, should these be told.
    pub(super) fn limits_with(&self, told: &LinuxResources) -> LinuxResources {
        let mut own = self.resources.clone().unwrap_or_default();
        let limit = told.memory().as_ref().and_then(|memory| memory.limit());
        if limit.is_some() {
            let mut memory = own.memory().unwrap_or_default();
            memory.set_limit(limit);
            own.set_memory(Some(memory));
        }
        if let Some(told) = told.cpu() {
            let mut cpu = own.cpu().clone().unwrap_or_default();
            cpu.set_quota(told.quota().or(cpu.quota()));
            cpu.set_period(told.period().or(cpu.period()));
            own.set_cpu(Some(cpu));
        }
        own
    }

    pub(super) fn shared(&self) -> &[String] {
        &self.shared
    }

    pub(super) fn has_disks(&self) -> bool {
        !self.disks.is_empty()
    }

    pub(super) fn take_disks(&mut self) -> Vec<Use> {
        std::mem::take(&mut self.disks)
    }

    pub(super) fn process(&self, exec: &str) -> Outcome<Arc<Process>> {
        if exec.is_empty() {
            return Ok(Arc::clone(&self.main));
        }
        let found = self.execs.get(exec).map(Arc::clone);
        found.ok_or_else(|| Failure::missing(format!("there is no process `{exec}`")))
    }

    pub(super) fn add_exec(&mut self, exec: &str, process: Arc<Process>) -> Outcome<()> {
        if self.execs.contains_key(exec) {
            return Err(Failure::exists(format!("the process `{exec}` exists")));
        }
        self.execs.insert(exec.to_owned(), process);
        Ok(())
    }

    pub(super) fn remove_exec(&mut self, exec: &str) {
        self.execs.remove(exec);
    }
}

/// A root filesystem, as far as it can be had without a machine.
enum Ready {
    /// Its name in the share.
    Shared(String),
    /// The same; the container writes on it.
    Directory(String),
    /// The names of its layers there, bottom to top.
    Layers(Vec<String>),
    Image(Image),
}

/// Where the sources of a container's mounts are.
#[derive(Default)]
struct Given {
    shared: Vec<Volume>,
    memory: Vec<MemoryVolume>,
    direct: Vec<direct::Opened>,
}

/// Names in the share that are taken out again unless they are kept.
pub(super) struct Shared<'a> {
    pod: &'a Pod,
    names: Vec<String>,
}

impl<'a> Shared<'a> {
    pub(super) fn new(pod: &'a Pod) -> Self {
        Self {
            pod,
            names: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, what: &Detached) -> Outcome<String> {
        let name = self.pod.share(what)?;
        self.names.push(name.clone());
        Ok(name)
    }

    /// Files of the host's that are only read; their names, in the same order.
    pub(super) fn add_files(&mut self, files: &[OwnedFd]) -> Outcome<Vec<String>> {
        let add = |file| {
            let bound = Detached::bind(file, Path::new("a layer"), true);
            self.add(&bound.map_err(|error| Failure::from_error(&error))?)
        };
        files.iter().map(add).collect()
    }

    pub(super) fn keep(mut self) -> Vec<String> {
        std::mem::take(&mut self.names)
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        let mut state = self.pod.lock();
        if let Some(share) = state.share.as_mut() {
            self.names.iter().for_each(|name| share.remove(name));
        }
    }
}

impl Pod {
    /// Puts something into the share; its name there.
    pub(super) fn share(&self, what: &Detached) -> Outcome<String> {
        let mut state = self.lock();
        state.names += 1;
        let name = format!("n{}", state.names);
        let share = state
            .share
            .as_mut()
            .ok_or_else(|| Failure::gone("the pod has no machine any more"))?;
        share
            .add(&name, what)
            .map_err(|error| Failure::from_error(&error))?;
        Ok(name)
    }

    /// Opens what a container is given of the host, and shares what is not to
    /// be in the guest's memory.
    fn give(
        self: &Arc<Self>,
        binds: &[Bind],
        overlays: &[Overlay],
        shared: &mut Shared<'_>,
    ) -> Outcome<Given> {
        let (uid, room) = {
            let state = self.lock();
            let uid = state.kubernetes.as_ref().map(|own| own.uid.clone());
            (uid.unwrap_or_default(), state.size.map(|size| size.room()))
        };
        let owner = memory::Owner {
            uid: &uid,
            room: room.map_or(0, |room| room.memory),
        };
        let mut given = Given::default();
        let number = |mount: usize| u32::try_from(mount + 1).unwrap_or(u32::MAX);
        let volume = |file, mount, mirror| Volume {
            tag: machine::SHARE.to_owned(),
            file,
            mount,
            mirror,
            ..Default::default()
        };
        for overlay in overlays {
            let file = shared.add(&rootfs::lay(&overlay.stack, overlay.read_only)?)?;
            let own = volume(file, number(overlay.mount), false);
            given.shared.push(own);
        }
        for bind in binds {
            let mount = number(bind.mount);
            if let Some(own) = direct::open(bind, mount)? {
                given.direct.push(own);
                continue;
            }
            let opened = rootfs::source(bind)?;
            // First what most pods have; it needs no look at the host's mounts.
            let mirrored = self.mirror(bind, &opened)?;
            let mirror = mirrored.is_some();
            let file = if let Some(name) = mirrored {
                name
            } else if let Some(own) = memory::volume(&opened, &owner, mount)? {
                given.memory.push(own);
                continue;
            } else {
                shared.add(&rootfs::bind(&opened, bind)?)?
            };
            given.shared.push(volume(file, mount, mirror));
        }
        Ok(given)
    }

    /// Makes a container in the booted machine.
    /// Answers the process id that stands for it.
    pub(super) async fn create_container(
        self: &Arc<Self>,
        request: Request,
        call: &Call,
    ) -> Outcome<u32> {
        // Everything of the host is opened while the machine boots.
        let layers = self.lock().layers.clone();
        let alone = request.kind == Kind::Single || self.caller == Caller::Runtime;
        let (mounts, bundle) = (request.rootfs.as_slice(), &request.bundle);
        let written = match (alone, mounts) {
            (true, []) => Some(rootfs::own(bundle, &request.spec)?),
            (true, mounts) => rootfs::written(mounts)?,
            (false, _) => None,
        };
        let Opened { root, wanting } = match written {
            Some(own) => own,
            None => rootfs::open(mounts, bundle, &request.spec, layers.as_ref())?,
        };
        let ends = stdio::open(&request.paths, self.owner(&request.id)).await?;
        let seccomp =
            seccomp::program(&request.spec).map_err(|e| Failure::invalid(e.to_string()))?;
        let sysctls = self.lock().sysctls.clone();
        let name = bulkhead_bundle::container_name(&request.spec);
        let log = bulkhead_bundle::log_path(&request.spec);
        let linux = request.spec.linux().as_ref();
        let resources = linux.and_then(|linux| linux.resources().clone());
        let Adapted {
            spec,
            binds,
            overlays,
            disks,
        } = bulkhead_bundle::adapt(request.spec, &sysctls, &self.told())?;
        let opened = disks::open(&disks)?;
        let stand_in = match request.stand_in {
            Some(own) => own,
            None => StandIn::new().map_err(|error| Failure::from_error(&error))?,
        };
        let pid = stand_in.pid();
        let mut shared = Shared::new(self);
        let root = match root {
            Root::Tree(tree) => Ready::Shared(shared.add(&tree)?),
            Root::Directory(tree) => Ready::Directory(shared.add(&tree)?),
            Root::Layers(images) => Ready::Layers(shared.add_files(&images)?),
            Root::Image(image) => Ready::Image(image),
        };
        let given = self.give(&binds, &overlays, &mut shared)?;
        let process = Process::new(request.paths, None);
        let sandbox = self.booted().await?;
        let mut uses = Vec::new();
        let config = ContainerConfig {
            id: request.id.clone(),
            spec,
            rootfs: Rootfs::default(),
            volumes: Vec::new(),
            devices: Vec::new(),
            memory_volumes: given.memory,
            user: String::new(),
            seccomp: seccomp.clone(),
            stdio: process.stdio(),
        };
        let made = async {
            let rootfs = self.root(&sandbox, root, &mut uses).await?;
            let devices = self.disks.devices(&sandbox, opened, &mut uses).await?;
            let direct = self.direct_volumes(&sandbox, given.direct, &mut uses);
            let mut volumes = given.shared;
            volumes.extend(direct.await?);
            let config = ContainerConfig {
                rootfs,
                devices,
                volumes,
                ..config
            };
            Ok::<_, Failure>(sandbox.create_container(config).await?)
        };
        let made = made.await;
        if made.is_err() {
            disks::release(uses.drain(..)).await;
        }
        let (_, streams, timings) = made?;
        let tracer = self.lock().tracer.clone();
        if let Some(tracer) = tracer {
            tracer.guest_phases(call, &timings);
        }
        for timing in timings {
            tracing::info!(id = request.id, phase = timing.phase, took = ?timing.took, "created");
        }
        let pumps = Pumps::start(ends, streams, Arc::clone(&process.close_input));
        let container = Container {
            bundle: request.bundle,
            name,
            log,
            is_pod: false,
            main: Arc::clone(&process),
            execs: HashMap::new(),
            shared: shared.keep(),
            disks: uses,
            hooks: request.hooks,
            seccomp,
            resources,
            paused: false,
            stand_in: Some(stand_in),
        };
        self.lock().containers.insert(request.id.clone(), container);
        self.watch(&request.id, "", process, pumps, sandbox);
        if let Some(layers) = layers.filter(|_| !wanting.is_empty()) {
            self.have_made(&layers, &wanting);
        }
        Ok(pid)
    }

    /// Has images made of layers that have none, for the next container.
    fn have_made(&self, layers: &Layers, wanting: &[PathBuf]) {
        let ordered = layers.order(wanting, self.lock().origin.as_ref());
        match ordered {
            Ok(ordered) => drop(tokio::task::spawn_blocking(|| ordered.see_through())),
            Err(error) => tracing::warn!(%error, "no images are made of layers"),
        }
    }

    /// What the guest is told of a root filesystem.
    async fn root(
        &self,
        sandbox: &Arc<Sandbox>,
        root: Ready,
        uses: &mut Vec<Use>,
    ) -> Outcome<Rootfs> {
        match root {
            Ready::Shared(name) => Ok(machine::rootfs(&name)),
            Ready::Directory(name) => Ok(machine::directory(&name)),
            Ready::Layers(names) => Ok(machine::layered(names)),
            Ready::Image(image) => {
                let (filesystem, read_only) = (image.filesystem, image.read_only);
                let serial = self.disks.image(sandbox, image, uses).await?;
                Ok(machine::disk_rootfs(&serial, filesystem, read_only))
            }
        }
    }

    /// Sees a process to its end and tells of it.
    pub(super) fn watch(
        self: &Arc<Self>,
        id: &str,
        exec: &str,
        process: Arc<Process>,
        pumps: Pumps,
        sandbox: Arc<Sandbox>,
    ) {
        let pod = Arc::clone(self);
        let (id, exec) = (id.to_owned(), exec.to_owned());
        tokio::spawn(async move {
            let container = sandbox.container(&id);
            let exit = tokio::select! {
                biased;
                exit = container.wait(&exec) => exit,
                _ = sandbox.ended() => Err(AgentError::Gone(String::new())),
            };
            let exit = match exit {
                Ok(exit) => exit,
                Err(AgentError::Gone(_)) => {
                    pod.lost(&id, &exec, &process, pumps).await;
                    return;
                }
                Err(error) => {
                    tracing::error!(id, exec, %error, "the guest lost a process");
                    pumps.finish(None).await;
                    pod.stopped(&id, &exec, &process, Exit::now(LOST));
                    return;
                }
            };
            // What it wrote arrives before the news of its end.
            pumps.finish(None).await;
            let _started = process.starting.lock().await;
            if exit.oom_killed {
                pod.out_of_memory(&id);
            }
            pod.stopped(&id, &exec, &process, Exit::now(exit.status.into()));
        });
    }

    /// Tells that a process of a container was ended for its memory, before its end is
    /// told: to containerd by an event, to CRI-O by a file in the bundle, where its own
    /// conmon leaves one.
    fn out_of_memory(&self, id: &str) {
        self.publish(Event::Oom(event::TaskOOM {
            container_id: id.to_owned(),
            ..Default::default()
        }));
        if !self.lock().of_crio {
            return;
        }
        let Ok((bundle, _)) = self.bundle(id) else {
            return;
        };
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Err(error) = rustix::fs::open(bundle.join("oom"), flags, Mode::RUSR) {
            tracing::warn!(id, %error, "CRI-O is not told that memory was short");
        }
    }

    /// A process that went with its machine: its log says why.
    async fn lost(&self, id: &str, exec: &str, process: &Process, pumps: Pumps) {
        let mut over = self.over.subscribe();
        let _ = over.wait_for(|over| *over).await;
        let (reason, signal) = {
            let state = self.lock();
            (state.reason.clone().unwrap_or_default(), state.signal)
        };
        let words = format!("bulkhead: the container's virtual machine ended: {reason}\n");
        let meant = signal.is_some();
        pumps.finish((!meant).then_some(words.as_str())).await;
        let code = signal.map_or(LOST, |signal| 128 + signal);
        self.stopped(id, exec, process, Exit::now(code));
    }
}

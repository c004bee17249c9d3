//! The `Agent` service: what the host asks, checked and passed on.

mod convert;
mod exec;
mod failure;
mod volumes;

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use bulkhead_protocol::agent::{self, Empty};
use bulkhead_protocol::agent_ttrpc;
use bulkhead_protocol::mux::Stream;
use bulkhead_protocol::stream::{Header, Kind};
use bulkhead_protocol::{VERSION, name};
use oci_spec::runtime::{self, Spec};
use tokio::sync::oneshot;
use ttrpc::r#async::TtrpcContext;

use crate::block::Plugs;
use crate::block_devices;
use crate::container::{self, Container, CreateArgs, Making, Rest};
use crate::disks::Assembled;
use crate::memory;
use crate::mirror::Mirror;
use crate::process::{Ends, HostStreams, Process};
use crate::reaper::{Exit, Reaper};
use crate::sandbox_files;
use crate::spare::Spare;
use crate::streams::Streams;
use failure::{Failure, failed};
use volumes::{Undo, place_memory, unmount};

/// Containers in a sandbox at most.
const CONTAINER_LIMIT: usize = 512;

/// Serves the control connection until it ends.
pub(crate) async fn serve(stream: Stream, service: AgentService) {
    let connection = futures::stream::once(async move { Ok(stream) });
    let listener = ttrpc::r#async::transport::Listener::new(connection);
    let mut server = ttrpc::r#async::Server::new()
        .add_listener(listener)
        .register_service(agent_ttrpc::create_agent(Arc::new(service)));
    if let Err(error) = server.start().await {
        crate::init::log(&format!("agent: the control connection failed: {error}"));
        return;
    }
    // The server's tasks do the work; it has to stay alive for them.
    std::future::pending::<()>().await;
}

/// The service's state. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AgentService {
    started_ns: u64,
    reaper: Reaper,
    streams: Streams,
    plugs: Plugs,
    spare: Arc<Spare>,
    // Held for map operations and the container's own system calls, never
    // across an await.
    containers: Arc<Mutex<HashMap<String, Entry>>>,
    // By tag and name of the volume; held while one follows.
    mirrors: Arc<Mutex<HashMap<(String, String), Mirror>>>,
}

struct Entry {
    container: Container,
    rootfs: Assembled,
    volumes: Vec<PathBuf>,
    /// Parts of memory volumes, which go with it.
    memory: Vec<memory::Place>,
    processes: HashMap<String, Process>,
    /// Names of those that are on their way.
    starting: HashSet<String>,
}

impl AgentService {
    pub(crate) fn new(started_ns: u64, reaper: Reaper, streams: Streams) -> Self {
        Self {
            started_ns,
            reaper,
            streams,
            plugs: Plugs::default(),
            spare: Arc::default(),
            containers: Arc::default(),
            mirrors: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(
        &self,
        id: &str,
        work: impl FnOnce(&mut Entry) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut containers = self.lock();
        let entry = containers
            .get_mut(id)
            .ok_or_else(|| Failure::no_container(id))?;
        work(entry)
    }

    fn process(&self, id: &str, exec: &str) -> Result<Process, Failure> {
        self.with(id, |entry| {
            entry
                .processes
                .get(exec)
                .cloned()
                .ok_or_else(|| Failure::no_process(id, exec))
        })
    }

    async fn host_streams(
        &self,
        container: &str,
        exec: &str,
        stdio: &agent::Stdio,
    ) -> Result<HostStreams, Failure> {
        let take = async |wanted: bool, kind: Kind| {
            if !wanted {
                return Ok(None);
            }
            let header = Header {
                kind,
                container: container.to_owned(),
                exec: exec.to_owned(),
            };
            let stream = self.streams.take(&header).await;
            stream
                .map(Some)
                .ok_or_else(|| Failure::internal("a stdio stream never arrived"))
        };
        Ok(HostStreams {
            stdin: take(stdio.stdin, Kind::Stdin).await?,
            stdout: take(stdio.stdout, Kind::Stdout).await?,
            stderr: take(stdio.stderr && !stdio.terminal, Kind::Stderr).await?,
        })
    }

    async fn create(
        &self,
        request: agent::CreateContainerRequest,
    ) -> Result<agent::ProcessResponse, Failure> {
        let id = request.container_id.clone();
        name::check(&id).map_err(Failure::invalid)?;
        {
            let containers = self.lock();
            if containers.contains_key(&id) {
                return Err(Failure::exists(&id));
            }
            if containers.len() >= CONTAINER_LIMIT {
                return Err(Failure::internal("the sandbox holds too many containers"));
            }
        }
        let start = Instant::now();
        let stdio = request.stdio.get_or_default();
        let streams = self.host_streams(&id, "", stdio).await?;
        let mut spec: Spec = serde_json::from_slice(&request.spec).map_err(Failure::invalid)?;
        let rootfs = Assembled::new(&id, request.rootfs.get_or_default())
            .await
            .map_err(Failure::invalid)?;
        let mut undo = Undo {
            rootfs: Some(rootfs),
            volumes: Vec::new(),
            memory: Vec::new(),
        };
        self.mount_volumes(&request, &mut spec, &mut undo).await?;
        block_devices::translate(&mut spec, &request.devices)
            .await
            .map_err(Failure::invalid)?;
        place_memory(&request, &mut spec, &mut undo)?;
        // A bundle's own directory is its maker's: nothing is put into it.
        if request.rootfs.directory.is_empty() {
            sandbox_files::add_mounts(&mut spec);
        }
        let mounted = start.elapsed();
        let (making, mut ends) = self.fork(&request, &spec, stdio, &undo)?;
        let pid = making.init_pid();
        let mut exit = self.reaper.watch(pid);
        let (container, terminal) = making.ready().await.map_err(Failure::container)?;
        set_size(&terminal, stdio, spec.process().as_ref());
        ends.terminal = terminal;
        if let Some(rest) = container.rest().map_err(Failure::container)? {
            exit = rest_ends(exit, rest);
        }
        let process = Process::new(pid, exit, ends, streams).map_err(Failure::internal_from)?;
        let rootfs = undo.rootfs.take().expect("set above and taken only here");
        let entry = Entry {
            container,
            rootfs,
            volumes: std::mem::take(&mut undo.volumes),
            memory: std::mem::take(&mut undo.memory),
            processes: HashMap::from([(String::new(), process)]),
            starting: HashSet::new(),
        };
        self.lock().insert(id, entry);
        Ok(convert::process(
            pid,
            &[
                ("mounts", mounted),
                ("container", start.elapsed() - mounted),
            ],
        ))
    }

    fn fork(
        &self,
        request: &agent::CreateContainerRequest,
        spec: &Spec,
        stdio: &agent::Stdio,
        undo: &Undo,
    ) -> Result<(Making, Ends), Failure> {
        let (child, ends) = convert::stdio(stdio).map_err(Failure::internal_from)?;
        let rootfs = undo.rootfs.as_ref().expect("assembled before the fork");
        let args = CreateArgs {
            id: &request.container_id,
            spec,
            rootfs: &rootfs.root,
            user: (!request.user.is_empty()).then_some(request.user.as_str()),
            seccomp: (!request.seccomp.is_empty()).then_some(request.seccomp.as_slice()),
            pids: self.pids_of_other(spec)?,
            stdio: child,
        };
        let making = Making::begin(&args).map_err(Failure::container)?;
        Ok((making, ends))
    }

    /// Lets a container's command be executed.
    async fn start(&self, id: &str) -> Result<Empty, Failure> {
        let executing = self.with(id, |entry| {
            entry.container.start().map_err(Failure::container)
        })?;
        executing.done().await.map_err(Failure::container)?;
        Ok(Empty::new())
    }

    /// The process namespace of another container, where the spec names one.
    fn pids_of_other(&self, spec: &Spec) -> Result<Option<OwnedFd>, Failure> {
        match container::pids_of(spec).map_err(Failure::container)? {
            Some(id) => self.with(&id, |entry| {
                let own = entry.container.pids_namespace();
                own.map_err(Failure::container)
            }),
            None => Ok(None),
        }
    }

    fn signal_one(&self, request: &agent::SignalRequest) -> Result<Empty, Failure> {
        let signal = i32::try_from(request.signal)
            .ok()
            .filter(|number| (1..=64).contains(number));
        let Some(signal) = signal else {
            return Err(Failure::invalid_text(format!(
                "no signal {}",
                request.signal
            )));
        };
        if request.all {
            return self.with(&request.container_id, |entry| {
                entry
                    .container
                    .signal_all(signal)
                    .map_err(Failure::container)?;
                Ok(Empty::new())
            });
        }
        let process = self.process(&request.container_id, &request.exec_id)?;
        if process.has_ended() || !container::send_signal(process.pid, signal) {
            return Err(Failure::no_process(&request.container_id, &request.exec_id));
        }
        Ok(Empty::new())
    }

    fn remove(&self, id: &str) -> Result<Empty, Failure> {
        let entry = self
            .lock()
            .remove(id)
            .ok_or_else(|| Failure::no_container(id))?;
        let outcome = entry.container.destroy().map_err(Failure::container);
        unmount(&entry.volumes);
        drop(entry.memory);
        entry.rootfs.destroy();
        outcome.map(|()| Empty::new())
    }
}

/// Ends what a first process left, before its end is known to anybody.
fn rest_ends(exit: oneshot::Receiver<Exit>, rest: Rest) -> oneshot::Receiver<Exit> {
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        if let Ok(exit) = exit.await {
            rest.kill();
            let _ = tell.send(exit);
        }
    });
    told
}

/// The caller's size, or the spec's where the caller has no terminal.
fn set_size(terminal: &Option<OwnedFd>, stdio: &agent::Stdio, process: Option<&runtime::Process>) {
    let size = crate::process::size(stdio).or_else(|| convert::console_size(process?));
    if let (Some(terminal), Some((rows, columns))) = (terminal, size) {
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let _ = rustix::termios::tcsetwinsize(terminal, size);
    }
}

#[async_trait]
impl agent_ttrpc::Agent for AgentService {
    async fn hello(
        &self,
        _: &TtrpcContext,
        request: agent::HelloRequest,
    ) -> ttrpc::Result<agent::HelloResponse> {
        if request.major != VERSION.0 {
            return failed(Failure::version(request.major));
        }
        convert::set_clock(request.realtime_ns);
        Ok(convert::hello(self.started_ns))
    }

    async fn configure_sandbox(
        &self,
        _: &TtrpcContext,
        request: agent::ConfigureSandboxRequest,
    ) -> ttrpc::Result<Empty> {
        let work = async {
            rustix::system::sethostname(request.hostname.as_bytes())
                .map_err(Failure::internal_from)?;
            sandbox_files::write(&request).map_err(Failure::internal_from)?;
            if request.pids_limit > 0 {
                container::limit_pids(request.pids_limit).map_err(Failure::internal_from)?;
            }
            crate::network::configure(&request.network)
                .await
                .map_err(Failure::invalid)
        };
        work.await.map(|()| Empty::new()).or_else(failed)
    }

    async fn connect_network(
        &self,
        _: &TtrpcContext,
        network: agent::Network,
    ) -> ttrpc::Result<Empty> {
        let connected = crate::network::configure(&network).await;
        let connected = connected.map_err(Failure::invalid);
        connected.map(|()| Empty::new()).or_else(failed)
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: agent::CreateContainerRequest,
    ) -> ttrpc::Result<agent::ProcessResponse> {
        self.create(request).await.or_else(failed)
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: agent::ContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.start(&request.container_id).await.or_else(failed)
    }

    async fn exec(
        &self,
        _: &TtrpcContext,
        request: agent::ExecRequest,
    ) -> ttrpc::Result<agent::ProcessResponse> {
        self.run_exec(request).await.or_else(failed)
    }

    async fn wait(
        &self,
        _: &TtrpcContext,
        request: agent::ProcessRequest,
    ) -> ttrpc::Result<agent::WaitResponse> {
        let process = match self.process(&request.container_id, &request.exec_id) {
            Ok(process) => process,
            Err(failure) => return failed(failure),
        };
        let exit = process.wait().await;
        process.told();
        // Whoever was killed, the process that ends badly ends for that.
        let oom_killed = exit.status != 0
            && request.exec_id.is_empty()
            && self
                .with(&request.container_id, |entry| {
                    Ok(entry.container.oom_kills() > 0)
                })
                .unwrap_or(false);
        Ok(agent::WaitResponse {
            status: exit.status,
            signal: exit.signal,
            oom_killed,
            ..Default::default()
        })
    }

    async fn signal(
        &self,
        _: &TtrpcContext,
        request: agent::SignalRequest,
    ) -> ttrpc::Result<Empty> {
        self.signal_one(&request).or_else(failed)
    }

    async fn resize_terminal(
        &self,
        _: &TtrpcContext,
        request: agent::ResizeTerminalRequest,
    ) -> ttrpc::Result<Empty> {
        let resize = || {
            let process = self.process(&request.container_id, &request.exec_id)?;
            let clamp = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
            process
                .resize(clamp(request.rows), clamp(request.columns))
                .map_err(Failure::internal_from)?;
            Ok(Empty::new())
        };
        resize().or_else(failed)
    }

    async fn pause(
        &self,
        _: &TtrpcContext,
        request: agent::ContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.with(&request.container_id, |entry| {
            entry.container.pause().map_err(Failure::container)?;
            Ok(Empty::new())
        })
        .or_else(failed)
    }

    async fn resume(
        &self,
        _: &TtrpcContext,
        request: agent::ContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.with(&request.container_id, |entry| {
            entry.container.resume().map_err(Failure::container)?;
            Ok(Empty::new())
        })
        .or_else(failed)
    }

    async fn update(
        &self,
        _: &TtrpcContext,
        request: agent::UpdateRequest,
    ) -> ttrpc::Result<Empty> {
        let update = || {
            let resources = serde_json::from_slice(&request.resources).map_err(Failure::invalid)?;
            self.with(&request.container_id, |entry| {
                entry
                    .container
                    .update(&resources)
                    .map_err(Failure::container)?;
                Ok(Empty::new())
            })
        };
        update().or_else(failed)
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        request: agent::ContainerRequest,
    ) -> ttrpc::Result<agent::StatsResponse> {
        self.with(&request.container_id, |entry| {
            let stats = entry.container.stats().map_err(Failure::container)?;
            Ok(convert::stats(&stats, entry.rootfs.usage()))
        })
        .or_else(failed)
    }

    async fn pids(
        &self,
        _: &TtrpcContext,
        request: agent::ContainerRequest,
    ) -> ttrpc::Result<agent::PidsResponse> {
        self.with(&request.container_id, |entry| {
            let pids = entry.container.pids().map_err(Failure::container)?;
            let pids = pids.into_iter().map(i32::unsigned_abs).collect();
            Ok(agent::PidsResponse {
                pids,
                ..Default::default()
            })
        })
        .or_else(failed)
    }

    async fn follow_volume(
        &self,
        _: &TtrpcContext,
        request: agent::VolumeRequest,
    ) -> ttrpc::Result<Empty> {
        let mirrors = self.mirrors.lock().unwrap_or_else(PoisonError::into_inner);
        let followed = match mirrors.get(&(request.tag, request.file)) {
            Some(mirror) => mirror.follow().map_err(Failure::internal_from),
            None => Err(Failure::invalid_text("the volume is not mirrored".into())),
        };
        followed.map(|()| Empty::new()).or_else(failed)
    }

    async fn remove_container(
        &self,
        _: &TtrpcContext,
        request: agent::ContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.remove(&request.container_id).or_else(failed)
    }

    async fn take_disk(&self, _: &TtrpcContext, request: agent::BlockRef) -> ttrpc::Result<Empty> {
        let taken = self.plugs.take(&request.serial).await;
        let taken = taken.map_err(Failure::internal_from);
        taken.map(|()| Empty::new()).or_else(failed)
    }

    async fn release_disk(
        &self,
        _: &TtrpcContext,
        request: agent::BlockRef,
    ) -> ttrpc::Result<Empty> {
        crate::volumes::forget(&request.serial);
        let released = self.plugs.release(&request.serial);
        let released = released.map_err(Failure::internal_from);
        released.map(|()| Empty::new()).or_else(failed)
    }

    async fn grow_disk(
        &self,
        _: &TtrpcContext,
        request: agent::GrowDiskRequest,
    ) -> ttrpc::Result<Empty> {
        let grown = crate::volumes::grow(&request.serial, request.bytes).await;
        let grown = grown.map_err(Failure::invalid);
        grown.map(|()| Empty::new()).or_else(failed)
    }

    async fn grow(
        &self,
        _: &TtrpcContext,
        request: agent::Resources,
    ) -> ttrpc::Result<agent::Resources> {
        let work = async {
            while self.spare.take_one(request.vcpus, request.memory_bytes)? {
                tokio::task::yield_now().await;
            }
            self.spare.taken()
        };
        let taken = work.await.map_err(Failure::internal_from);
        taken.map(convert::resources).or_else(failed)
    }

    async fn shutdown(&self, _: &TtrpcContext, _: Empty) -> ttrpc::Result<Empty> {
        crate::init::power_off()
    }
}

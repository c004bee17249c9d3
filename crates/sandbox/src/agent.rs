//! Containers and their processes, through the agent.

use std::net::Ipv4Addr;
use std::time::Duration;

use bulkhead_protocol::agent::{
    Archive, ContainerRequest, CreateContainerRequest, Device, ExecRequest, MemoryVolume, Network,
    ProcessRequest, ResizeTerminalRequest, Resources, SignalRequest, StatsResponse, Stdio,
    UpdateRequest, Volume, VolumeRequest,
};
use bulkhead_protocol::mux::Stream;
use bulkhead_protocol::stream::{CONNECTED, Header, Kind};
use bulkhead_protocol::{SPEC_LIMIT, name};
use oci_spec::runtime::{LinuxResources, Process, Spec};
use tokio::io::AsyncReadExt;
use ttrpc::Code;

use crate::Rootfs;
use crate::start::{Sandbox, Timing};

/// How long the agent may take for a call that does not wait for a workload.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Output of a process.
pub type ReadStream = tokio::io::ReadHalf<Stream>;

/// Input of a process; shutting it down is end of file.
pub type WriteStream = tokio::io::WriteHalf<Stream>;

/// What the agent refused.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The command does not exist in the container: exit code 127.
    #[error("{0}")]
    NotFound(String),
    /// The command cannot be executed: exit code 126.
    #[error("{0}")]
    NotExecutable(String),
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The container or process is not there, or not running.
    #[error("{0}")]
    NotRunning(String),
    /// A name is taken.
    #[error("{0}")]
    Exists(String),
    /// The guest failed at it.
    #[error("the guest failed: {0}")]
    Failed(String),
    /// The sandbox is gone.
    #[error("the sandbox is gone: {0}")]
    Gone(String),
}

impl From<ttrpc::Error> for AgentError {
    fn from(error: ttrpc::Error) -> Self {
        let ttrpc::Error::RpcStatus(status) = error else {
            return Self::Gone(error.to_string());
        };
        let text = status.message.clone();
        match status.code() {
            Code::NOT_FOUND => Self::NotFound(text),
            Code::PERMISSION_DENIED => Self::NotExecutable(text),
            Code::INVALID_ARGUMENT => Self::Invalid(text),
            Code::FAILED_PRECONDITION => Self::NotRunning(text),
            Code::ALREADY_EXISTS => Self::Exists(text),
            Code::UNAVAILABLE => Self::Gone(text),
            _ => Self::Failed(text),
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, or 128 + signal.
    pub status: u8,
    /// The signal that ended it.
    pub signal: Option<u8>,
    /// The kernel killed it for memory.
    pub oom_killed: bool,
}

/// Which stdio a process gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StdioConfig {
    /// Standard input is a stream; else it is empty.
    pub stdin: bool,
    /// All three are one terminal.
    pub terminal: bool,
    /// Rows and columns of the terminal.
    pub size: Option<(u16, u16)>,
}

impl StdioConfig {
    fn message(self) -> Stdio {
        let (rows, columns) = self.size.unwrap_or_default();
        Stdio {
            stdin: self.stdin,
            stdout: true,
            stderr: !self.terminal,
            terminal: self.terminal,
            rows: rows.into(),
            columns: columns.into(),
            ..Default::default()
        }
    }
}

/// The host's ends of a process's stdio.
#[derive(Debug)]
pub struct HostStdio {
    /// Input, where it was asked for.
    pub stdin: Option<WriteStream>,
    /// Output, or the terminal's.
    pub stdout: ReadStream,
    /// Errors; none with a terminal.
    pub stderr: Option<ReadStream>,
}

/// A container to be made.
#[derive(Debug)]
pub struct ContainerConfig {
    /// Its name in the sandbox; see [`name::check`].
    pub id: String,
    /// OCI runtime spec.
    pub spec: Spec,
    /// Where its root filesystem comes from.
    pub rootfs: Rootfs,
    /// Shared host directories.
    pub volumes: Vec<Volume>,
    /// Block devices of the spec that are disks of the guest.
    pub devices: Vec<Device>,
    /// Directories in the guest's memory.
    pub memory_volumes: Vec<MemoryVolume>,
    /// `user[:group]` to be resolved in the image; empty: the spec's ids.
    pub user: String,
    /// Compiled seccomp program; empty: none.
    pub seccomp: Vec<u8>,
    /// Its stdio.
    pub stdio: StdioConfig,
}

/// A further process.
#[derive(Debug)]
pub struct ExecConfig {
    /// Its name in the container.
    pub id: String,
    /// OCI runtime spec `process`.
    pub process: Process,
    /// `user[:group]` to be resolved in the image; empty: the spec's ids.
    pub user: String,
    /// Compiled seccomp program; empty: none.
    pub seccomp: Vec<u8>,
    /// Its stdio.
    pub stdio: StdioConfig,
    /// Files to move instead of a command to run.
    pub archive: Option<Archive>,
}

/// A container in a sandbox; cheap to make, holds nothing.
#[derive(Clone)]
pub struct Container {
    agent: bulkhead_protocol::agent_ttrpc::AgentClient,
    id: String,
}

impl Sandbox {
    /// Makes a container up to the moment before its command is executed.
    ///
    /// # Errors
    /// [`AgentError`]; nothing of the container is left in the guest then.
    pub async fn create_container(
        &self,
        config: ContainerConfig,
    ) -> Result<(Container, HostStdio, Vec<Timing>), AgentError> {
        name::check(&config.id).map_err(|e| AgentError::Invalid(e.to_string()))?;
        let spec = encode(&config.spec)?;
        let stdio = self.open_stdio(&config.id, "", config.stdio).await?;
        let request = CreateContainerRequest {
            container_id: config.id.clone(),
            spec,
            rootfs: Some(config.rootfs).into(),
            volumes: config.volumes,
            devices: config.devices,
            memory_volumes: config.memory_volumes,
            user: config.user,
            seccomp: config.seccomp,
            stdio: Some(config.stdio.message()).into(),
            ..Default::default()
        };
        let response = self.agent.create_container(context(), &request).await?;
        let timings = response.phases.iter().map(|phase| Timing {
            phase: if phase.name == "mounts" {
                "mounts"
            } else {
                "container"
            },
            took: Duration::from_micros(phase.micros),
        });
        Ok((self.container(&config.id), stdio, timings.collect()))
    }

    /// A container by its name, whether or not it exists.
    pub fn container(&self, id: &str) -> Container {
        Container {
            agent: self.agent.clone(),
            id: id.to_owned(),
        }
    }

    /// Starts a further process in a container.
    ///
    /// # Errors
    /// [`AgentError`], as `execve` fails.
    pub async fn exec(&self, container: &str, config: ExecConfig) -> Result<HostStdio, AgentError> {
        name::check(&config.id).map_err(|e| AgentError::Invalid(e.to_string()))?;
        let stdio = self.open_stdio(container, &config.id, config.stdio).await?;
        let request = ExecRequest {
            container_id: container.to_owned(),
            exec_id: config.id,
            process: encode(&config.process)?,
            user: config.user,
            seccomp: config.seccomp,
            stdio: Some(config.stdio.message()).into(),
            archive: config.archive.into(),
            ..Default::default()
        };
        self.agent.exec(context(), &request).await?;
        Ok(stdio)
    }

    /// Makes a mirrored volume what the host's is now.
    ///
    /// # Errors
    /// [`AgentError`]; the mirror is as it was then, or in part.
    pub async fn follow_volume(&self, tag: &str, file: &str) -> Result<(), AgentError> {
        let request = VolumeRequest {
            tag: tag.to_owned(),
            file: file.to_owned(),
            ..Default::default()
        };
        self.agent.follow_volume(context(), &request).await?;
        Ok(())
    }

    /// Gives the guest further interfaces, on devices it has had and not used.
    ///
    /// # Errors
    /// [`AgentError`]; some of it may have been done then.
    pub async fn connect_network(&self, network: &Network) -> Result<(), AgentError> {
        self.agent.connect_network(context(), network).await?;
        Ok(())
    }

    /// Has the guest take of what the machine has to spare, until so many processors
    /// run and it has so many bytes of memory beside those of its start; what it has
    /// then, which may be less.
    ///
    /// # Errors
    /// [`AgentError`]; what the guest took before stays.
    pub async fn grow(&self, vcpus: u32, memory: u64) -> Result<(u32, u64), AgentError> {
        let request = Resources {
            vcpus,
            memory_bytes: memory,
            ..Default::default()
        };
        let taken = self.agent.grow(context(), &request).await?;
        Ok((taken.vcpus, taken.memory_bytes))
    }

    /// Connects to a port of the guest's loopback interface. `None`: nobody
    /// listens there.
    ///
    /// # Errors
    /// [`AgentError::Gone`].
    pub async fn connect(&self, port: u16) -> Result<Option<Stream>, AgentError> {
        self.open(&Header::port(port)).await
    }

    /// Takes the place of a name server at an address of the guest's loopback
    /// interface: the stream carries [`Datagram`](bulkhead_protocol::datagram::Datagram)s.
    /// `None`: the guest has one there itself.
    ///
    /// # Errors
    /// [`AgentError::Gone`].
    pub async fn resolve(&self, address: Ipv4Addr) -> Result<Option<Stream>, AgentError> {
        self.open(&Header::resolver(address)).await
    }

    /// Opens a stream the guest answers whether it takes.
    async fn open(&self, header: &Header) -> Result<Option<Stream>, AgentError> {
        let mut stream = self.stream(header).await?;
        let answer = stream.read_u8().await.map_err(|error| gone(&error))?;
        Ok((answer == CONNECTED).then_some(stream))
    }

    /// Opens a stream.
    async fn stream(&self, header: &Header) -> Result<Stream, AgentError> {
        let mut stream = self.opener.open().await.map_err(|error| gone(&error))?;
        header
            .write(&mut stream)
            .await
            .map_err(|error| gone(&error))?;
        Ok(stream)
    }

    async fn open_stdio(
        &self,
        container: &str,
        exec: &str,
        config: StdioConfig,
    ) -> Result<HostStdio, AgentError> {
        let open = async |kind: Kind| {
            let header = Header {
                kind,
                container: container.to_owned(),
                exec: exec.to_owned(),
            };
            Ok::<_, AgentError>(tokio::io::split(self.stream(&header).await?))
        };
        let stdin = if config.stdin {
            Some(open(Kind::Stdin).await?.1)
        } else {
            None
        };
        let stdout = open(Kind::Stdout).await?.0;
        let stderr = if config.terminal {
            None
        } else {
            Some(open(Kind::Stderr).await?.0)
        };
        Ok(HostStdio {
            stdin,
            stdout,
            stderr,
        })
    }
}

impl Container {
    /// Executes the command.
    ///
    /// # Errors
    /// [`AgentError`], as `execve` fails.
    pub async fn start(&self) -> Result<(), AgentError> {
        self.agent
            .start_container(context(), &self.request())
            .await?;
        Ok(())
    }

    /// Answers when a process has ended; an empty `exec` is the container's
    /// first.
    ///
    /// # Errors
    /// [`AgentError::Gone`] when the sandbox ended first.
    pub async fn wait(&self, exec: &str) -> Result<Exit, AgentError> {
        let request = ProcessRequest {
            container_id: self.id.clone(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        let exit = self
            .agent
            .wait(ttrpc::context::Context::default(), &request)
            .await?;
        Ok(Exit {
            status: u8::try_from(exit.status).unwrap_or(255),
            signal: u8::try_from(exit.signal).ok().filter(|signal| *signal != 0),
            oom_killed: exit.oom_killed,
        })
    }

    /// Sends a signal to a process, or to all of the container's.
    ///
    /// # Errors
    /// [`AgentError::NotRunning`] when it has ended.
    pub async fn signal(&self, exec: &str, signal: u32, all: bool) -> Result<(), AgentError> {
        let request = SignalRequest {
            container_id: self.id.clone(),
            exec_id: exec.to_owned(),
            signal,
            all,
            ..Default::default()
        };
        self.agent.signal(context(), &request).await?;
        Ok(())
    }

    /// Sets a terminal's size.
    ///
    /// # Errors
    /// [`AgentError::NotRunning`] when the process is gone.
    pub async fn resize(&self, exec: &str, rows: u16, columns: u16) -> Result<(), AgentError> {
        let request = ResizeTerminalRequest {
            container_id: self.id.clone(),
            exec_id: exec.to_owned(),
            rows: rows.into(),
            columns: columns.into(),
            ..Default::default()
        };
        self.agent.resize_terminal(context(), &request).await?;
        Ok(())
    }

    /// Freezes the container's processes.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn pause(&self) -> Result<(), AgentError> {
        self.agent.pause(context(), &self.request()).await?;
        Ok(())
    }

    /// Thaws them.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn resume(&self) -> Result<(), AgentError> {
        self.agent.resume(context(), &self.request()).await?;
        Ok(())
    }

    /// Changes limits.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] for limits the kernel refuses.
    pub async fn update(&self, resources: &LinuxResources) -> Result<(), AgentError> {
        let request = UpdateRequest {
            container_id: self.id.clone(),
            resources: encode(resources)?,
            ..Default::default()
        };
        self.agent.update(context(), &request).await?;
        Ok(())
    }

    /// What it uses.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn stats(&self) -> Result<StatsResponse, AgentError> {
        Ok(self.agent.stats(context(), &self.request()).await?)
    }

    /// Pids of its processes in the guest.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn pids(&self) -> Result<Vec<u32>, AgentError> {
        Ok(self.agent.pids(context(), &self.request()).await?.pids)
    }

    /// Kills what is left and forgets it.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn remove(&self) -> Result<(), AgentError> {
        self.agent
            .remove_container(context(), &self.request())
            .await?;
        Ok(())
    }

    fn request(&self) -> ContainerRequest {
        ContainerRequest {
            container_id: self.id.clone(),
            ..Default::default()
        }
    }
}

fn gone(error: &dyn std::error::Error) -> AgentError {
    AgentError::Gone(error.to_string())
}

pub(crate) fn context() -> ttrpc::context::Context {
    ttrpc::context::with_duration(CALL_TIMEOUT)
}

fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>, AgentError> {
    let bytes = serde_json::to_vec(value).map_err(|e| AgentError::Invalid(e.to_string()))?;
    if bytes.len() > SPEC_LIMIT {
        return Err(AgentError::Invalid(format!(
            "the spec is {} bytes long, more than the {SPEC_LIMIT} allowed",
            bytes.len()
        )));
    }
    Ok(bytes)
}

//! The shim of a container: the program containerd executes too, asked by the same
//! calls.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bulkhead_control::{Answer, Call, OCI_NAMESPACE, Reply, Request, Socket};
use bulkhead_sys::jail::Jail;
use containerd_shim_protos::api::{
    CreateTaskRequest, DeleteRequest, ExecProcessRequest, KillRequest, PauseRequest,
    ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StateRequest, StateResponse,
    Status, UpdateTaskRequest, WaitRequest,
};
use containerd_shim_protos::shim_async::{Client, TaskClient};
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use rustix::process::{PidfdFlags, pidfd_open};
use ttrpc::context::Context;

use super::stdio::Paths;
use super::{Error, Place};

const PROGRAM: &str = "containerd-shim-bulkhead-v2";

/// Of the options by which containerd names a configuration file.
const OPTIONS: &str = "runtimeoptions.v1.Options";

/// A shim, connected.
pub(super) struct Shim {
    task: TaskClient,
    id: String,
}

/// The container's first process.
pub(super) const FIRST: &str = "";

/// The program: beside this one.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.with_file_name(PROGRAM)
}

/// Has the shim of a place do something, in the place's bundle. With an `owner` it ends
/// when that descriptor says so.
fn execute(place: &Place, word: &str, owner: Option<&OwnedFd>) -> Result<(), Error> {
    let program = program();
    let mut command = Command::new(&program);
    command
        .args([
            "-namespace",
            OCI_NAMESPACE,
            "-id",
            place.id(),
            "-address",
            "",
        ])
        .env("TTRPC_ADDRESS", "")
        .current_dir(place.bundle())
        .stdin(Stdio::null());
    let mut jail = Jail::new();
    if let Some(owner) = owner {
        let copy = owner.try_clone().map_err(Error::host("begin"))?;
        command.args(["-owner", &jail.inherit(copy).to_string()]);
    }
    command.arg(word);
    let guard = jail.apply(&mut command);
    let output = command.output().map_err(|source| Error::NoShim {
        path: program,
        source,
    })?;
    drop(guard);
    match output.status.success() {
        true => Ok(()),
        false => {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(Error::Answer(text.trim().to_owned()))
        }
    }
}

/// Takes away what a shim that was killed left.
pub(super) fn clean(place: &Place) -> Result<(), Error> {
    execute(place, "delete", None)
}

fn failed(error: ttrpc::Error) -> Error {
    Error::Answer(match error {
        ttrpc::Error::RpcStatus(status) => status.message,
        other => format!("the container's shim does not answer: {other}"),
    })
}

fn done<T>(answer: ttrpc::Result<T>) -> Result<(), Error> {
    answer.map(drop).map_err(failed)
}

/// A message by which containerd names a configuration file: its field 2 is the path.
fn options(config: &Path) -> Option<Any> {
    let path = config.to_str()?;
    let mut value = Vec::new();
    let mut stream = protobuf::CodedOutputStream::vec(&mut value);
    stream.write_string(2, path).ok()?;
    stream.flush().ok()?;
    drop(stream);
    Some(Any {
        type_url: OPTIONS.to_owned(),
        value,
        ..Default::default()
    })
}

/// Waits as long as it takes: a machine that does not boot is given up by the shim.
fn context() -> Context {
    Context::default()
}

impl Shim {
    /// Starts a shim that ends when nobody has the other end of the pipe `owner` open.
    pub(super) async fn start(place: &Place, owner: &OwnedFd) -> Result<Self, Error> {
        execute(place, "start", Some(owner))?;
        Self::connect(place).await
    }

    /// The shim of a container that was created.
    pub(super) async fn connect(place: &Place) -> Result<Self, Error> {
        let address = place.address()?;
        let client = Client::connect(&address).await.map_err(failed)?;
        Ok(Self {
            task: TaskClient::new(client),
            id: place.id().to_owned(),
        })
    }

    /// The process at the other end. pidfd_open(2).
    pub(super) fn process(place: &Place) -> Result<OwnedFd, Error> {
        let path = place.socket()?;
        let found = bulkhead_status::listener(&path)
            .and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::NONBLOCK)?));
        found.map_err(Error::io("find who listens at", path))
    }

    /// Lets a process end when nobody has the other end of the pipe `owner` open.
    pub(super) fn own(place: &Place, exec: &str, owner: &OwnedFd) -> Result<(), Error> {
        let path = place.socket()?;
        let dir = path.parent().unwrap_or(&path);
        let failed = || Error::io("talk to the shim in", dir);
        let socket = Socket::connect(dir).map_err(failed())?;
        let call = Call {
            number: 1,
            request: Request::Own {
                container: place.id().to_owned(),
                exec: exec.to_owned(),
            },
        };
        socket.send(&call, &[owner.as_fd()]).map_err(failed())?;
        match socket.receive::<Reply>().map_err(failed())? {
            Some(Reply {
                answer: Answer::Failed(failure),
                ..
            }) => Err(Error::Answer(failure.text)),
            Some(_) => Ok(()),
            None => Err(Error::Answer("the container's shim was killed".to_owned())),
        }
    }

    /// Has the container made; the process id the shim tells for it.
    pub(super) async fn create(
        &self,
        bundle: &Path,
        paths: Paths,
        terminal: bool,
        config: Option<&Path>,
    ) -> Result<u32, Error> {
        let request = CreateTaskRequest {
            id: self.id.clone(),
            bundle: bundle.display().to_string(),
            terminal,
            stdin: paths.stdin,
            stdout: paths.stdout,
            stderr: paths.stderr,
            options: config.and_then(options).into(),
            ..Default::default()
        };
        let created = self.task.create(context(), &request).await;
        created.map(|created| created.pid).map_err(failed)
    }

    /// Notes a further process; `spec` is OCI's, as JSON.
    pub(super) async fn exec(
        &self,
        exec: &str,
        spec: Vec<u8>,
        paths: Paths,
        terminal: bool,
    ) -> Result<(), Error> {
        let request = ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            terminal,
            stdin: paths.stdin,
            stdout: paths.stdout,
            stderr: paths.stderr,
            spec: MessageField::some(Any {
                value: spec,
                ..Default::default()
            }),
            ..Default::default()
        };
        done(self.task.exec(context(), &request).await)
    }

    pub(super) async fn begin(&self, exec: &str) -> Result<(), Error> {
        let request = StartRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        done(self.task.start(context(), &request).await)
    }

    /// Waits for a process's end; its exit code.
    pub(super) async fn wait(&self, exec: &str) -> Result<u32, Error> {
        let request = WaitRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        let ended = self.task.wait(context(), &request).await.map_err(failed)?;
        Ok(ended.exit_status)
    }

    pub(super) async fn kill(&self, exec: &str, signal: u32, all: bool) -> Result<(), Error> {
        let request = KillRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            signal,
            all,
            ..Default::default()
        };
        done(self.task.kill(context(), &request).await)
    }

    pub(super) async fn resize(
        &self,
        exec: &str,
        (rows, columns): (u16, u16),
    ) -> Result<(), Error> {
        let request = ResizePtyRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            height: rows.into(),
            width: columns.into(),
            ..Default::default()
        };
        done(self.task.resize_pty(context(), &request).await)
    }

    pub(super) async fn delete(&self, exec: &str) -> Result<(), Error> {
        let request = DeleteRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        done(self.task.delete(context(), &request).await)
    }

    /// Has it end, with whatever is left in it.
    pub(super) async fn shut_down(&self) -> Result<(), Error> {
        let request = ShutdownRequest {
            id: self.id.clone(),
            now: true,
            ..Default::default()
        };
        done(self.task.shutdown(context(), &request).await)
    }

    /// The process id the shim has told for the container.
    pub(super) async fn told(&self) -> Result<u32, Error> {
        Ok(self.state().await?.pid)
    }

    async fn state(&self) -> Result<StateResponse, Error> {
        let request = StateRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        self.task.state(context(), &request).await.map_err(failed)
    }

    /// "created", "running", "paused" or "stopped": the runtime spec's words.
    pub(super) async fn status(&self) -> Result<&'static str, Error> {
        let state = self.state().await?;
        Ok(match state.status.enum_value() {
            Ok(Status::CREATED) => "created",
            Ok(Status::RUNNING) => "running",
            Ok(Status::PAUSED | Status::PAUSING) => "paused",
            _ => "stopped",
        })
    }

    pub(super) async fn pause(&self, pause: bool) -> Result<(), Error> {
        let id = self.id.clone();
        let answer = match pause {
            true => {
                let request = PauseRequest {
                    id,
                    ..Default::default()
                };
                self.task.pause(context(), &request).await
            }
            false => {
                let request = ResumeRequest {
                    id,
                    ..Default::default()
                };
                self.task.resume(context(), &request).await
            }
        };
        done(answer)
    }

    /// New limits: OCI's `linux.resources`, as JSON.
    pub(super) async fn update(&self, resources: Vec<u8>) -> Result<(), Error> {
        let request = UpdateTaskRequest {
            id: self.id.clone(),
            resources: MessageField::some(Any {
                value: resources,
                ..Default::default()
            }),
            ..Default::default()
        };
        done(self.task.update(context(), &request).await)
    }
}

//! containerd's Task API: requests in, the pod's answers out.
//! containerd's api/runtime/task/v3/shim.proto.

use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
    StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::shim_async::Task;
use oci_spec::runtime::LinuxResources;
use protobuf::MessageField;
use ttrpc::r#async::TtrpcContext;

use crate::failure::{Failure, Outcome};
use crate::metrics;
use crate::pod::Pod;
use crate::process::{Status, api_status};
use crate::trace::Call;

/// The service.
pub(crate) struct TaskApi {
    pod: Arc<Pod>,
}

impl TaskApi {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        Self { pod }
    }

    async fn set_paused(&self, id: String, paused: bool) -> ttrpc::Result<Empty> {
        let pod = Arc::clone(&self.pod);
        let call = if paused { "pause" } else { "resume" };
        let changed = whole(async move { pod.pause(&id, paused).await }).await;
        answer(call, changed)?;
        Ok(Empty::new())
    }

    /// Sees a call through, and tells of it whoever traces the pod.
    async fn traced<T>(
        &self,
        call: Call,
        id: &str,
        work: impl Future<Output = Outcome<T>>,
    ) -> ttrpc::Result<T> {
        let outcome = work.await;
        self.pod.traced(&call, id, outcome.as_ref().err());
        answer(call.name(), outcome)
    }

    fn state_of(&self, request: &StateRequest) -> Outcome<StateResponse> {
        let process = self.pod.process(&request.id, &request.exec_id)?;
        let (bundle, paused) = self.pod.bundle(&request.id)?;
        let status = process.status();
        let mut response = StateResponse {
            id: request.id.clone(),
            exec_id: request.exec_id.clone(),
            bundle: bundle.to_string_lossy().into_owned(),
            pid: self.pod.pid(&request.id),
            stdin: process.paths.stdin.clone(),
            stdout: process.paths.stdout.clone(),
            stderr: process.paths.stderr.clone(),
            terminal: process.paths.terminal,
            ..Default::default()
        };
        response.status = api_status(&status, paused && request.exec_id.is_empty()).into();
        if let Status::Stopped(exit) = status {
            response.exit_status = exit.code;
            response.exited_at = MessageField::some(exit.at);
        }
        Ok(response)
    }
}

/// What went wrong, in the log and to containerd.
pub(crate) fn answer<T>(call: &'static str, outcome: Outcome<T>) -> ttrpc::Result<T> {
    outcome.map_err(|failure| {
        // containerd asks for what may be gone: not worth a line.
        if !failure.is_missing() {
            tracing::warn!(call, %failure, "refused");
        }
        failure.into()
    })
}

/// Sees work through that must not be left half done when containerd, which
/// asked for it, goes away meanwhile: ttrpc drops the call then.
pub(crate) async fn whole<T: Send + 'static>(
    work: impl Future<Output = Outcome<T>> + Send + 'static,
) -> Outcome<T> {
    let done = tokio::spawn(work).await;
    done.unwrap_or_else(|error| Err(Failure::internal(error.to_string())))
}

fn size(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

#[async_trait]
impl Task for TaskApi {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        answer("state", self.state_of(&request))
    }

    async fn create(
        &self,
        context: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let pod = Arc::clone(&self.pod);
        let (id, call) = (request.id.clone(), Call::begin("create", context));
        let own = call.clone();
        let work = whole(async move { pod.create(request, &own).await });
        let pid = self.traced(call, &id, work).await?;
        Ok(CreateTaskResponse {
            pid,
            ..Default::default()
        })
    }

    async fn start(
        &self,
        context: &TtrpcContext,
        request: StartRequest,
    ) -> ttrpc::Result<StartResponse> {
        let pod = Arc::clone(&self.pod);
        let pid = pod.pid(&request.id);
        let (id, call) = (request.id.clone(), Call::begin("start", context));
        let work = whole(async move { pod.start(&request.id, &request.exec_id).await });
        self.traced(call, &id, work).await?;
        Ok(StartResponse {
            pid,
            ..Default::default()
        })
    }

    async fn delete(
        &self,
        context: &TtrpcContext,
        request: DeleteRequest,
    ) -> ttrpc::Result<DeleteResponse> {
        let pod = Arc::clone(&self.pod);
        let pid = pod.pid(&request.id);
        let (id, call) = (request.id.clone(), Call::begin("delete", context));
        let work = whole(async move { pod.delete(&request.id, &request.exec_id).await });
        let exit = self.traced(call, &id, work).await?;
        Ok(DeleteResponse {
            pid,
            exit_status: exit.code,
            exited_at: MessageField::some(exit.at),
            ..Default::default()
        })
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let pids = answer("pids", self.pod.pids(&request.id).await)?;
        let processes = pids.into_iter().map(|pid| ProcessInfo {
            pid,
            ..Default::default()
        });
        Ok(PidsResponse {
            processes: processes.collect(),
            ..Default::default()
        })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        self.set_paused(request.id, true).await
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        self.set_paused(request.id, false).await
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        answer(
            "checkpoint",
            Err(Failure::unimplemented(
                "a container in a virtual machine cannot be checkpointed",
            )),
        )
    }

    async fn kill(&self, context: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let (id, exec) = (&request.id, &request.exec_id);
        let work = self.pod.kill(id, exec, request.signal, request.all);
        self.traced(Call::begin("kill", context), id, work).await?;
        Ok(Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        answer("exec", self.pod.exec(request))?;
        Ok(Empty::new())
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: ResizePtyRequest,
    ) -> ttrpc::Result<Empty> {
        let (rows, columns) = (size(request.height), size(request.width));
        let resized = self
            .pod
            .resize(&request.id, &request.exec_id, rows, columns)
            .await;
        answer("resize", resized)?;
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        let process = answer("close", self.pod.process(&request.id, &request.exec_id))?;
        if request.stdin {
            process.close_input.notify_one();
        }
        Ok(Empty::new())
    }

    async fn update(
        &self,
        context: &TtrpcContext,
        request: UpdateTaskRequest,
    ) -> ttrpc::Result<Empty> {
        let call = Call::begin("update", context);
        let bytes = request.resources.as_ref().map(|any| any.value.as_slice());
        let resources = serde_json::from_slice::<LinuxResources>(bytes.unwrap_or_default())
            .map_err(|error| Failure::invalid(format!("the new limits: {error}")));
        let work = async {
            match resources {
                Ok(resources) => self.pod.update(&request.id, &resources).await,
                Err(failure) => Err(failure),
            }
        };
        self.traced(call, &request.id, work).await?;
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let process = answer("wait", self.pod.process(&request.id, &request.exec_id))?;
        let exit = process.ended().await;
        Ok(WaitResponse {
            exit_status: exit.code,
            exited_at: MessageField::some(exit.at),
            ..Default::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let stats = answer("stats", self.pod.stats(&request.id).await)?;
        let any = metrics::any(&stats).map_err(|error| Failure::internal(error.to_string()))?;
        Ok(StatsResponse {
            stats: MessageField::some(any),
            ..Default::default()
        })
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: ConnectRequest,
    ) -> ttrpc::Result<ConnectResponse> {
        answer("connect", self.pod.process(&request.id, ""))?;
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: self.pod.pid(&request.id),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.pod.shut_down(request.now);
        Ok(Empty::new())
    }
}

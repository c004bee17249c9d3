//! containerd 2's Sandbox API: requests in, the pod's answers out.
//! containerd's api/runtime/sandbox/v1/sandbox.proto.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest,
    PlatformResponse, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
    SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest,
    StartSandboxResponse, StopSandboxRequest, StopSandboxResponse, WaitSandboxRequest,
    WaitSandboxResponse,
};
use containerd_shim_protos::sandbox_async::Sandbox;
use protobuf::MessageField;
use ttrpc::r#async::TtrpcContext;

use crate::failure::Failure;
use crate::metrics;
use crate::pod::Pod;
use crate::process::{self, Status};
use crate::task::{answer, whole};
use crate::trace::Call;

/// What the CRI calls the two states.
const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";

/// The service.
pub(crate) struct SandboxApi {
    pod: Arc<Pod>,
}

impl SandboxApi {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        Self { pod }
    }
}

/// In Go's words, as images have it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[async_trait]
impl Sandbox for SandboxApi {
    async fn create_sandbox(
        &self,
        context: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> ttrpc::Result<CreateSandboxResponse> {
        let pod = Arc::clone(&self.pod);
        let (id, call) = (
            request.sandbox_id.clone(),
            Call::begin("create sandbox", context),
        );
        let own = call.clone();
        let created = whole(async move { pod.create_sandbox(request, &own) }).await;
        self.pod.traced(&call, &id, created.as_ref().err());
        answer("create sandbox", created)?;
        Ok(CreateSandboxResponse::new())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> ttrpc::Result<StartSandboxResponse> {
        let pod = Arc::clone(&self.pod);
        let id = request.sandbox_id;
        let started = whole(async move { pod.start(&id, "").await }).await;
        answer("start sandbox", started)?;
        Ok(StartSandboxResponse {
            pid: std::process::id(),
            created_at: MessageField::some(process::at(self.pod.started())),
            ..Default::default()
        })
    }

    async fn platform(
        &self,
        _: &TtrpcContext,
        _: PlatformRequest,
    ) -> ttrpc::Result<PlatformResponse> {
        let mut response = PlatformResponse::new();
        let platform = response.platform.mut_or_insert_default();
        platform.os = "linux".to_owned();
        platform.architecture = architecture().to_owned();
        Ok(response)
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: StopSandboxRequest,
    ) -> ttrpc::Result<StopSandboxResponse> {
        let pod = Arc::clone(&self.pod);
        let grace = Duration::from_secs(request.timeout_secs.into());
        let stopped = whole(async move { pod.stop_sandbox(&request.sandbox_id, grace).await });
        answer("stop sandbox", stopped.await)?;
        Ok(StopSandboxResponse::new())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: WaitSandboxRequest,
    ) -> ttrpc::Result<WaitSandboxResponse> {
        let process = answer("wait sandbox", self.pod.sandbox(&request.sandbox_id))?;
        let exit = process.ended().await;
        Ok(WaitSandboxResponse {
            exit_status: exit.code,
            exited_at: MessageField::some(exit.at),
            ..Default::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: SandboxStatusRequest,
    ) -> ttrpc::Result<SandboxStatusResponse> {
        let process = answer("sandbox status", self.pod.sandbox(&request.sandbox_id))?;
        let status = process.status();
        let mut response = SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            pid: std::process::id(),
            state: match status {
                Status::Running => READY,
                Status::Created | Status::Stopped(_) => NOT_READY,
            }
            .to_owned(),
            created_at: MessageField::some(process::at(self.pod.started())),
            ..Default::default()
        };
        if let Status::Stopped(exit) = status {
            response.exited_at = MessageField::some(exit.at);
        }
        if request.verbose {
            let info = serde_json::to_string(&self.pod.own_status())
                .map_err(|error| Failure::internal(error.to_string()));
            let info = answer("sandbox status", info)?;
            response.info.insert("bulkhead".to_owned(), info);
        }
        Ok(response)
    }

    async fn ping_sandbox(
        &self,
        _: &TtrpcContext,
        request: PingRequest,
    ) -> ttrpc::Result<PingResponse> {
        let process = answer("ping sandbox", self.pod.sandbox(&request.sandbox_id))?;
        match process.status() {
            Status::Stopped(_) => {
                let ended = Err(Failure::gone("the pod's machine has ended"));
                answer("ping sandbox", ended)
            }
            Status::Created | Status::Running => Ok(PingResponse::new()),
        }
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: ShutdownSandboxRequest,
    ) -> ttrpc::Result<ShutdownSandboxResponse> {
        let known = self.pod.sandbox(&request.sandbox_id);
        // Asked again, or of one that could not be made, it ends all the same.
        if known.is_err() && request.sandbox_id != self.pod.id() {
            answer("shut sandbox down", known)?;
        }
        self.pod.shut_down_answered();
        Ok(ShutdownSandboxResponse::new())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: SandboxMetricsRequest,
    ) -> ttrpc::Result<SandboxMetricsResponse> {
        answer("sandbox metrics", self.pod.sandbox(&request.sandbox_id))?;
        let stats = self.pod.sum_stats().await;
        let any = metrics::any(&stats).map_err(|error| Failure::internal(error.to_string()));
        let mut response = SandboxMetricsResponse::new();
        let metric = response.metrics.mut_or_insert_default();
        metric.id = request.sandbox_id;
        metric.timestamp = MessageField::some(process::now());
        metric.data = MessageField::some(answer("sandbox metrics", any)?);
        Ok(response)
    }
}

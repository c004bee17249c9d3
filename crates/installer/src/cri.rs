//! Pods through the runtime's own interface, as the kubelet runs them.
//! Kubernetes' CRI, `runtime.v1`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatusRequest,
    CreateContainerRequest, ImageSpec, ImageStatusRequest, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext,
    ListImagesRequest, ListPodSandboxRequest, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxFilter, PodSandboxMetadata, PullImageRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StatusRequest, StopPodSandboxRequest,
    VersionRequest,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::handler::HandlerName;
use crate::seams::{Reason, Smoke};

/// How long a runtime that was restarted may take to answer.
const UP: Duration = Duration::from_secs(60);

/// How long one call may take: a machine boots in it, maybe emulated.
const CALL: Duration = Duration::from_secs(180);

/// Between two questions to a runtime that does not answer yet.
const AGAIN: Duration = Duration::from_millis(50);

/// The label of the pods of trials; its value is the handler.
const LABEL: &str = "bulkhead.io/smoke";

/// Why the runtime did not do as it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CriError {
    /// There is no runtime to talk to.
    #[error("no container runtime answers at `{}`", socket.display())]
    Connect {
        /// Its socket.
        socket: PathBuf,
        /// What happened.
        #[source]
        source: Reason,
    },
    /// It answered with an error.
    #[error("the runtime could not {what}: {}", .status.message())]
    Call {
        /// What it was asked.
        what: &'static str,
        /// What it answered, code and text.
        status: Box<Status>,
    },
    /// The container did not stay.
    #[error("the container of the trial is not running (exit code {code}): {reason} {message}")]
    Ended {
        /// Its exit code.
        code: i32,
        /// The runtime's word for why.
        reason: String,
        /// And sentence.
        message: String,
    },
    /// No image to try with.
    #[error("the runtime has no sandbox image to try with; name one with --smoke-image")]
    NoImage,
}

fn failed(what: &'static str) -> impl Fn(Status) -> CriError {
    move |status| CriError::Call {
        what,
        status: Box::new(status),
    }
}

/// A conversation with a runtime.
#[derive(Debug)]
pub struct Cri {
    tokio: tokio::runtime::Runtime,
    socket: PathBuf,
    image: Option<String>,
}

impl Cri {
    /// Prepares one; the runtime need not run yet. `image` is what containers
    /// of trials are made of, instead of the runtime's sandbox image.
    ///
    /// # Errors
    /// When the kernel gives no event queue.
    pub fn new(socket: &Path, image: Option<String>) -> std::io::Result<Self> {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            tokio,
            socket: socket.to_owned(),
            image,
        })
    }

    /// The runtime's name and version, if it answers now.
    ///
    /// # Errors
    /// [`CriError::Connect`], [`CriError::Call`].
    pub fn version(&self) -> Result<(String, String), CriError> {
        self.tokio.block_on(async {
            let mut client = RuntimeServiceClient::new(self.channel().await?);
            let answer = client.version(VersionRequest::default()).await;
            let answer = answer.map_err(failed("tell its version"))?.into_inner();
            Ok((answer.runtime_name, answer.runtime_version))
        })
    }

    async fn channel(&self) -> Result<Channel, CriError> {
        let failed = |source: Reason| CriError::Connect {
            socket: self.socket.clone(),
            source,
        };
        let address = format!("unix://{}", self.socket.display());
        let endpoint = Endpoint::from_shared(address).map_err(|error| failed(error.into()))?;
        let connected = endpoint.timeout(CALL).connect().await;
        connected.map_err(|error| failed(error.into()))
    }

    /// A channel to a runtime that may just have been restarted. There is no
    /// event for that it answers: the kubelet asks again, too.
    async fn channel_when_up(&self) -> Result<Channel, CriError> {
        let deadline = Instant::now() + UP;
        loop {
            let error = match self.channel().await {
                Ok(channel) => match ready(&channel).await {
                    Ok(()) => return Ok(channel),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if Instant::now() > deadline {
                return Err(error);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn try_pod(&self, handler: &HandlerName) -> Result<(), CriError> {
        let channel = self.channel_when_up().await?;
        let mut client = RuntimeServiceClient::new(channel.clone());
        remove_left(&mut client, handler).await?;
        let config = pod(handler);
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_string(),
        };
        let id = client.run_pod_sandbox(request).await;
        let id = id.map_err(failed("run a pod"))?.into_inner().pod_sandbox_id;
        let ran = async {
            let image = self.image(&channel).await?;
            run_container(&mut client, &id, config, image).await
        };
        let ran = ran.await;
        let removed = remove(&mut client, &id).await;
        ran.and(removed)
    }

    /// An image every node has: the one its pods' sandboxes are made of.
    async fn image(&self, channel: &Channel) -> Result<String, CriError> {
        let mut runtime = RuntimeServiceClient::new(channel.clone());
        let mut images = ImageServiceClient::new(channel.clone());
        let image = match &self.image {
            Some(image) => image.clone(),
            None => match configured(&mut runtime).await? {
                Some(image) => image,
                None => pinned(&mut images).await?.ok_or(CriError::NoImage)?,
            },
        };
        let image = ImageSpec {
            image,
            ..Default::default()
        };
        let request = ImageStatusRequest {
            image: Some(image.clone()),
            verbose: false,
        };
        let status = images.image_status(request).await;
        let status = status.map_err(failed("look at an image"))?.into_inner();
        if status.image.is_none() {
            let request = PullImageRequest {
                image: Some(image.clone()),
                ..Default::default()
            };
            let pulled = images.pull_image(request).await;
            pulled.map_err(failed("pull the image of the trial"))?;
        }
        Ok(image.image)
    }
}

impl Smoke for Cri {
    fn run(&mut self, handler: &HandlerName) -> Result<(), Reason> {
        Ok(self.tokio.block_on(self.try_pod(handler))?)
    }
}

type Client = RuntimeServiceClient<Channel>;

async fn ready(channel: &Channel) -> Result<(), CriError> {
    let request = StatusRequest { verbose: false };
    let mut client = RuntimeServiceClient::new(channel.clone());
    let status = client.status(request).await;
    status.map(drop).map_err(failed("tell its status"))
}

/// containerd 1 tells its configuration with its status.
async fn configured(client: &mut Client) -> Result<Option<String>, CriError> {
    let status = client.status(StatusRequest { verbose: true }).await;
    let info = status.map_err(failed("tell its status"))?.into_inner().info;
    let config = info.get("config").map(String::as_str).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_str(config).unwrap_or_default();
    let image = config.get("sandboxImage").and_then(|image| image.as_str());
    Ok(image.filter(|image| !image.is_empty()).map(str::to_owned))
}

/// containerd 1.7 and newer, and CRI-O, mark the sandbox image.
async fn pinned(client: &mut ImageServiceClient<Channel>) -> Result<Option<String>, CriError> {
    let list = client.list_images(ListImagesRequest::default()).await;
    let list = list.map_err(failed("list its images"))?.into_inner().images;
    let pause = |tag: &String| {
        tag.rsplit('/')
            .next()
            .is_some_and(|name| name.starts_with("pause:"))
    };
    let mut tags = list.into_iter().filter_map(|image| {
        let tag = image
            .repo_tags
            .iter()
            .find(|tag| image.pinned || pause(tag));
        tag.cloned()
    });
    Ok(tags.next())
}

fn pod(handler: &HandlerName) -> PodSandboxConfig {
    let name = format!("bulkhead-smoke-{handler}");
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            uid: name.clone(),
            namespace: "bulkhead-system".to_owned(),
            attempt: 0,
            name,
        }),
        hostname: "smoke".to_owned(),
        labels: [(LABEL.to_owned(), handler.to_string())].into(),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// As the kubelet asks for when a pod says nothing.
fn namespaces() -> NamespaceOption {
    NamespaceOption {
        network: NamespaceMode::Pod.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

/// The image's own command, which waits for ever.
async fn run_container(
    client: &mut Client,
    pod: &str,
    config: PodSandboxConfig,
    image: String,
) -> Result<(), CriError> {
    let request = CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "smoke".to_owned(),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image,
                ..Default::default()
            }),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        sandbox_config: Some(config),
    };
    let created = client.create_container(request).await;
    let created = created.map_err(failed("make a container in the pod"))?;
    let container_id = created.into_inner().container_id;
    let request = StartContainerRequest {
        container_id: container_id.clone(),
    };
    let started = client.start_container(request).await;
    started.map_err(failed("start a container in the pod"))?;
    let request = ContainerStatusRequest {
        container_id,
        verbose: false,
    };
    let status = client.container_status(request).await;
    let status = status
        .map_err(failed("tell how the container is"))?
        .into_inner();
    match status.status {
        Some(status) if status.state() != ContainerState::ContainerRunning => {
            Err(CriError::Ended {
                code: status.exit_code,
                reason: status.reason,
                message: status.message,
            })
        }
        _ => Ok(()),
    }
}

async fn remove(client: &mut Client, id: &str) -> Result<(), CriError> {
    let request = StopPodSandboxRequest {
        pod_sandbox_id: id.to_owned(),
    };
    let stopped = client.stop_pod_sandbox(request).await;
    stopped.map_err(failed("stop the pod of the trial"))?;
    let request = RemovePodSandboxRequest {
        pod_sandbox_id: id.to_owned(),
    };
    let removed = client.remove_pod_sandbox(request).await;
    removed
        .map(drop)
        .map_err(failed("remove the pod of the trial"))
}

/// Pods of trials that were killed.
async fn remove_left(client: &mut Client, handler: &HandlerName) -> Result<(), CriError> {
    let request = ListPodSandboxRequest {
        filter: Some(PodSandboxFilter {
            label_selector: [(LABEL.to_owned(), handler.to_string())].into(),
            ..Default::default()
        }),
    };
    let list = client.list_pod_sandbox(Request::new(request)).await;
    let list = list.map_err(failed("list its pods"))?.into_inner().items;
    for pod in list {
        remove(client, &pod.id).await?;
    }
    Ok(())
}

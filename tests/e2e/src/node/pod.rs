//! Pods and containers of a node.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatsRequest, ContainerStatus,
    ContainerStatusRequest, CreateContainerRequest, ExecSyncRequest, ImageSpec,
    LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext, PodSandboxConfig,
    PodSandboxState, PodSandboxStatusRequest, RemoveContainerRequest, RemovePodSandboxRequest,
    StartContainerRequest, StopContainerRequest, StopPodSandboxRequest,
    UpdateContainerResourcesRequest,
};
use tonic::Status;

use super::{END, IMAGE, Node, namespaces};

/// A pod.
#[derive(Debug)]
pub struct Pod<'a> {
    pub(super) node: &'a Node,
    /// Its id.
    pub id: String,
    pub(super) config: PodSandboxConfig,
}

/// A container of a pod.
#[derive(Debug)]
pub struct Container<'a> {
    pub(super) node: &'a Node,
    /// Its id.
    pub id: String,
    pub(super) log: PathBuf,
}

/// What an exec answered.
#[derive(Debug)]
pub struct Executed {
    /// Exit code.
    pub code: i32,
    /// Standard output, without the last line break.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Pod<'_> {
    /// Starts a container that runs a shell script.
    pub async fn start(&self, name: &str, script: &str) -> Container<'_> {
        self.start_with(name, script, |_| ()).await.unwrap()
    }

    /// Starts a container with further settings, or says why not.
    ///
    /// # Errors
    /// containerd's status.
    pub async fn start_with(
        &self,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> Result<Container<'_>, Status> {
        let container = self.create_with(name, script, change).await?;
        container.start().await?;
        Ok(container)
    }

    /// Makes a container that does not run yet.
    ///
    /// # Errors
    /// containerd's status.
    pub async fn create_with(
        &self,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> Result<Container<'_>, Status> {
        let mut config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: IMAGE.to_owned(),
                ..Default::default()
            }),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources::default()),
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces()),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        };
        change(&mut config);
        let log = Path::new(&self.config.log_directory).join(&config.log_path);
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let mut runtime = self.node.runtime.clone();
        let id = runtime.create_container(request).await?;
        Ok(Container {
            node: self.node,
            id: id.into_inner().container_id,
            log,
        })
    }

    /// Its address, as containerd knows it.
    pub async fn address(&self) -> String {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: self.id.clone(),
            verbose: false,
        };
        let status = self.node.runtime.clone().pod_sandbox_status(request).await;
        let status = status.unwrap().into_inner().status.unwrap();
        status.network.unwrap().ip
    }

    /// Where its shim serves, as containerd notes it.
    #[must_use]
    pub fn shim_address(&self) -> String {
        let bundles = "state/io.containerd.runtime.v2.task/k8s.io";
        let address = self
            .node
            .path()
            .join(bundles)
            .join(&self.id)
            .join("address");
        std::fs::read_to_string(address).unwrap()
    }

    /// Whether containerd takes it for ready.
    pub async fn is_ready(&self) -> bool {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: self.id.clone(),
            verbose: false,
        };
        let status = self.node.runtime.clone().pod_sandbox_status(request).await;
        let status = status.unwrap().into_inner().status.unwrap();
        status.state() == PodSandboxState::SandboxReady
    }

    /// Waits until containerd knows that it has ended, as the kubelet does: by
    /// asking. It hears of a pod and of its containers one by one.
    pub async fn ended(&self) {
        let deadline = Instant::now() + END;
        while self.is_ready().await {
            assert!(Instant::now() < deadline, "the pod does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops and removes it with everything in it.
    ///
    /// # Errors
    /// containerd's status.
    pub async fn remove(self) -> Result<(), Status> {
        let mut runtime = self.node.runtime.clone();
        runtime
            .stop_pod_sandbox(StopPodSandboxRequest {
                pod_sandbox_id: self.id.clone(),
            })
            .await?;
        runtime
            .remove_pod_sandbox(RemovePodSandboxRequest {
                pod_sandbox_id: self.id,
            })
            .await?;
        Ok(())
    }
}

impl<'a> Pod<'a> {
    /// The node it is on.
    #[must_use]
    pub fn node(&self) -> &'a Node {
        self.node
    }
}

impl Container<'_> {
    /// Changes its limits.
    ///
    /// # Errors
    /// containerd's status.
    pub async fn update(&self, limits: LinuxContainerResources) -> Result<(), Status> {
        let request = UpdateContainerResourcesRequest {
            container_id: self.id.clone(),
            linux: Some(limits),
            ..Default::default()
        };
        let mut runtime = self.node.runtime.clone();
        runtime.update_container_resources(request).await.map(drop)
    }

    /// Lets it run.
    ///
    /// # Errors
    /// containerd's status.
    pub async fn start(&self) -> Result<(), Status> {
        let request = StartContainerRequest {
            container_id: self.id.clone(),
        };
        self.node.runtime.clone().start_container(request).await?;
        Ok(())
    }

    /// Runs a shell script in it.
    pub async fn exec(&self, script: &str) -> Executed {
        self.run(&["/bin/sh", "-c", script]).await.unwrap()
    }

    /// Runs a command in it.
    ///
    /// # Errors
    /// containerd's status.
    pub async fn run(&self, command: &[&str]) -> Result<Executed, Status> {
        let request = ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: 30,
        };
        let response = self.node.runtime.clone().exec_sync(request).await?;
        let response = response.into_inner();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
        Ok(Executed {
            code: response.exit_code,
            out: text(response.stdout),
            err: text(response.stderr),
        })
    }

    /// Memory it uses, bytes, as containerd counts it: without what the kernel
    /// could take back at once.
    pub async fn memory(&self) -> u64 {
        let request = ContainerStatsRequest {
            container_id: self.id.clone(),
        };
        let response = self.node.runtime.clone().container_stats(request).await;
        let stats = response.unwrap().into_inner().stats.unwrap();
        stats.memory.unwrap().working_set_bytes.unwrap().value
    }

    /// What containerd says of it.
    pub async fn status(&self) -> ContainerStatus {
        self.asked().await.unwrap()
    }

    async fn asked(&self) -> Result<ContainerStatus, Status> {
        let request = ContainerStatusRequest {
            container_id: self.id.clone(),
            verbose: false,
        };
        let response = self.node.runtime.clone().container_status(request).await?;
        Ok(response.into_inner().status.unwrap())
    }

    /// Waits until it has ended, as the kubelet does: by asking.
    pub async fn ended(&self) -> ContainerStatus {
        self.known_to_have_ended().await.unwrap()
    }

    /// The same of a containerd that may be gone.
    ///
    /// # Errors
    /// containerd's status.
    pub async fn known_to_have_ended(&self) -> Result<ContainerStatus, Status> {
        let deadline = Instant::now() + END;
        loop {
            let status = self.asked().await?;
            if status.state() == ContainerState::ContainerExited {
                return Ok(status);
            }
            assert!(Instant::now() < deadline, "it does not end: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops it, with a grace in seconds.
    ///
    /// # Errors
    /// containerd's status.
    pub async fn stop(&self, grace: i64) -> Result<(), Status> {
        let request = StopContainerRequest {
            container_id: self.id.clone(),
            timeout: grace,
        };
        self.node.runtime.clone().stop_container(request).await?;
        Ok(())
    }

    /// Removes it.
    ///
    /// # Errors
    /// containerd's status.
    pub async fn remove(&self) -> Result<(), Status> {
        let request = RemoveContainerRequest {
            container_id: self.id.clone(),
        };
        self.node.runtime.clone().remove_container(request).await?;
        Ok(())
    }

    /// Waits for a line of its log, as whoever reads it does: by looking. How long
    /// it took.
    pub async fn says(&self, line: &str, within: Duration) -> Duration {
        let start = Instant::now();
        while !self.log().lines().any(|own| own == line) {
            let log = self.log();
            assert!(start.elapsed() < within, "no `{line}` in {log}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        start.elapsed()
    }

    /// What it wrote, each line as `stdout text`.
    #[must_use]
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines = text.lines().filter_map(|line| {
            let mut words = line.splitn(4, ' ');
            let (_, stream, _, text) = (words.next()?, words.next()?, words.next()?, words.next()?);
            Some(format!("{stream} {text}\n"))
        });
        lines.collect()
    }
}

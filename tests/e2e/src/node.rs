//! A node as the kubelet sees it: a real containerd with its CRI, in a network
//! namespace of its own, driven through gRPC.
//!
//! ```text
//!   test ── CRI ──▶ containerd ── Task API ──▶ the shim under test
//!                       └── CNI ──▶ bridge in the node's namespace
//! ```
//!
//! `BULKHEAD_E2E_HANDLER=runc` runs the same pods with runc: a test that fails
//! there expects something wrong.

mod bare;
mod containerd;
mod forward;
mod pod;
mod snapshotters;

use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, ListPodSandboxRequest, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxMetadata, RunPodSandboxRequest,
};
use rustix::thread::LinkNameSpaceType;
use tonic::Status;
use tonic::transport::Channel;

use crate::processes::{arguments, in_cgroup, parent, processes};
use crate::{busybox_image, tool};
pub use forward::Forwarded;
pub use pod::{Container, Executed, Pod};

/// The image of every container.
const IMAGE: &str = "localhost/busybox:1";

/// The sandbox's, which is run by runc only: a machine needs no pause
/// container.
const PAUSE: &str = "localhost/pause:1";

/// How long containerd may take to answer for the first time.
const UP: Duration = Duration::from_secs(20);

/// How long a container may take to end by itself.
const END: Duration = Duration::from_secs(60);

/// How long the kubelet would at least go on asking for a removal.
const AGAIN: Duration = Duration::from_secs(20);

/// How long a shim may outlive its pod.
const GONE: Duration = Duration::from_secs(1);

/// Lines of containerd's log shown when a test fails.
const LOG_LINES: usize = 40;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Which runtime handler the pods ask for.
pub(crate) fn handler() -> String {
    std::env::var("BULKHEAD_E2E_HANDLER").unwrap_or_else(|_| "kata".to_owned())
}

/// Makes a network namespace nobody else has; its name.
pub(crate) fn network(prefix: &str) -> String {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{prefix}{}-{number}", std::process::id());
    tool("ip", &["netns", "add", &name]);
    tool("ip", &["-n", &name, "link", "set", "lo", "up"]);
    name
}

/// Where containers of the OCI command line have their directories.
pub const OCI: &str = "/run/bulkhead/oci";

/// Where pods have their directories.
pub const PODS: &str = "/run/bulkhead/pods";

/// Do pods run in machines? What only a machine has is not expected of runc.
#[must_use]
pub fn in_machine() -> bool {
    handler() != "runc"
}

/// Removes a control group that is empty, in every hierarchy: of version 2, or
/// those of version 1.
pub fn remove_cgroup(name: &str) {
    let root = Path::new("/sys/fs/cgroup");
    for entry in std::fs::read_dir(root).into_iter().flatten() {
        let _ = std::fs::remove_dir(entry.unwrap().path().join(name));
    }
    let _ = std::fs::remove_dir(root.join(name));
}

/// A containerd with nothing in it but one image.
#[derive(Debug)]
pub struct Node {
    dir: tempfile::TempDir,
    namespace: String,
    containerd: Option<Child>,
    /// The kubelet's connection.
    pub runtime: RuntimeServiceClient<Channel>,
    /// The same for images.
    pub images: ImageServiceClient<Channel>,
}

impl Node {
    /// Starts containerd with the shim under test.
    pub async fn start() -> Self {
        Self::start_with(|dir, namespace| {
            containerd::configure(dir);
            Some(containerd::spawn(dir, namespace))
        })
        .await
    }

    /// The same on a node whose pods have a second network, by a CNI plugin with
    /// its settings. The node has an interface `parent` for it.
    pub async fn with_second_network(plugin: serde_json::Value) -> Self {
        Self::start_with(|dir, namespace| {
            let ip = |words: &str| tool("ip", &words.split(' ').collect::<Vec<_>>());
            ip(&format!(
                "-n {namespace} link add parent type veth peer name nobody"
            ));
            ip(&format!("-n {namespace} link set parent up"));
            ip(&format!("-n {namespace} link set nobody up"));
            containerd::configure(dir);
            containerd::second_network(dir, plugin);
            Some(containerd::spawn(dir, namespace))
        })
        .await
    }

    /// Starts containerd on a node that has nothing of Bulkhead.
    pub async fn bare() -> Self {
        Self::start_with(|dir, namespace| {
            containerd::network(dir);
            bare::configure(dir, namespace);
            bare::restart(dir);
            None
        })
        .await
    }

    async fn start_with(start: impl FnOnce(&Path, &str) -> Option<Child>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let namespace = network("bht");
        let containerd = start(dir.path(), &namespace);
        let channel = containerd::channel(dir.path());
        let node = Self {
            dir,
            namespace,
            containerd,
            runtime: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
        };
        node.answers().await;
        node.import();
        // All tests once more, with whatever comes of layers that are images.
        if std::env::var_os("BULKHEAD_E2E_LAYERS").is_some() {
            let _ = node.keep_layers();
        }
        node
    }

    /// Where everything of it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The name of its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// From now on pods keep the layers of their images as images themselves, in
    /// this directory.
    #[must_use]
    pub fn keep_layers(&self) -> PathBuf {
        let place = self.path().join("layers");
        let settings = self.path().join("bulkhead.toml");
        let text = std::fs::read_to_string(&settings).unwrap();
        let room = format!(
            "layers_mib = 1024\nlayers_reserve = 0\nlayers = \"{}\"\n",
            place.display()
        );
        std::fs::write(&settings, text.replace("layers_mib = 0\n", &room)).unwrap();
        place
    }

    /// Makes the image known.
    fn import(&self) {
        let dir = self.path();
        busybox_image(&dir.join("busybox"));
        let layout = dir.join("busybox/image").display().to_string();
        let latest = format!("{layout}:latest");
        let sleep = ["--config.cmd", "/bin/sleep", "--config.cmd", "1000000"];
        let pause = ["config", "--image", &latest, "--tag", "pause"];
        tool("umoci", &[&pause[..], &sleep].concat());
        for (tag, image) in [("latest", IMAGE), ("pause", PAUSE)] {
            let archive = dir.join(tag).display().to_string();
            let from = format!("oci:{layout}:{tag}");
            let to = format!("oci-archive:{archive}:{image}");
            tool("skopeo", &["copy", "--quiet", &from, &to]);
            assert_eq!(self.ctr(&["image", "import", &archive]).code, 0);
        }
    }

    /// Runs `ctr` in the kubelet's containerd namespace.
    #[must_use]
    pub fn ctr(&self, args: &[&str]) -> crate::Answer {
        let socket = self.path().join("containerd.sock").display().to_string();
        let mut command = Command::new("ctr");
        command
            .args(["--address", &socket, "--namespace", "k8s.io"])
            .args(args);
        crate::Answer::of(&mut command)
    }

    /// Has the shim clean up after a pod or a container, as containerd does:
    /// in its bundle.
    pub fn clean_up(&self, id: &str) {
        let socket = self.path().join("containerd.sock").display().to_string();
        let bundles = self
            .path()
            .join("state/io.containerd.runtime.v2.task/k8s.io");
        let shim = crate::program().with_file_name("containerd-shim-bulkhead-v2");
        let status = Command::new(shim)
            .args(["-namespace", "k8s.io", "-address", &socket])
            .args(["-id", id, "delete"])
            .current_dir(bundles.join(id))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success());
    }

    /// Runs a command on the node, in its network namespace.
    #[must_use]
    pub fn shell(&self, script: &str) -> crate::Answer {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, "sh", "-c", script]);
        crate::Answer::of(&mut command)
    }

    /// Connects to an address of the node.
    fn connect(&self, address: &str) -> TcpStream {
        let path = Path::new("/run/netns").join(&self.namespace);
        let namespace = std::fs::File::open(path).unwrap();
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).unwrap();
                TcpStream::connect(address).unwrap()
            });
            there.join().unwrap()
        })
    }

    /// Runs a pod.
    pub async fn pod(&self, name: &str) -> Pod<'_> {
        self.pod_with(name, |_| ()).await.unwrap()
    }

    /// Runs a pod with further settings, or says why not.
    ///
    /// # Errors
    /// containerd's status.
    pub async fn pod_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut PodSandboxConfig),
    ) -> Result<Pod<'_>, Status> {
        let logs = self.path().join("logs").join(name);
        std::fs::create_dir_all(&logs).unwrap();
        let mut config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: name.to_owned(),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: logs.display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}", self.namespace),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        change(&mut config);
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler(),
        };
        let id = self.runtime.clone().run_pod_sandbox(request).await?;
        Ok(Pod {
            node: self,
            id: id.into_inner().pod_sandbox_id,
            config,
        })
    }

    /// The group on the host that a controller counts the pods of this node in,
    /// made as the kubelet makes it.
    #[must_use]
    pub fn pod_group(&self, controller: &str) -> PathBuf {
        let root = Path::new("/sys/fs/cgroup");
        let first = root.join(controller);
        let path = match first.is_dir() {
            true => first,
            false => root.to_owned(),
        };
        let path = path.join(&self.namespace);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// A control group of this node, for what is not the kubelet's.
    #[must_use]
    pub fn group_of(&self, name: &str) -> String {
        format!("/{}/{name}", self.namespace)
    }

    /// Stops and removes every pod, as the kubelet does with what it finds: again,
    /// while containerd, which hears of a death from several sides, still makes up
    /// its mind.
    ///
    /// # Errors
    /// containerd's last status.
    pub async fn remove_all(&self) -> Result<(), Status> {
        let deadline = Instant::now() + AGAIN;
        loop {
            match self.remove_each().await {
                Err(_) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn remove_each(&self) -> Result<(), Status> {
        let mut runtime = self.runtime.clone();
        let list = runtime.list_pod_sandbox(ListPodSandboxRequest::default());
        for pod in list.await?.into_inner().items {
            self.known_pod(&pod.id).remove().await?;
        }
        Ok(())
    }

    /// What is left of pods on the host: processes, directories, network
    /// namespaces, control groups.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let names = |dir: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries
                .map(|entry| entry.path().display().to_string())
                .collect()
        };
        let mut left: Vec<String> = in_cgroup(&format!("/{}", self.namespace))
            .into_iter()
            .chain(self.shims())
            .map(|pid| format!("process {pid}"))
            .collect();
        left.extend(
            names(Path::new(PODS))
                .into_iter()
                .filter(|pod| !self.is_foreign(pod)),
        );
        left.extend(names(
            &self.path().join("state/io.containerd.grpc.v1.cri/netns"),
        ));
        for hierarchy in names(Path::new("/sys/fs/cgroup")) {
            let group = Path::new(&hierarchy).join(&self.namespace);
            let below = |path: &String| Path::new(path).is_dir();
            left.extend(names(&group).into_iter().filter(below));
        }
        left
    }

    /// Is a pod's directory that of another node's, of a test beside this one? It
    /// says which control group the pod joined.
    fn is_foreign(&self, pod: &str) -> bool {
        let joined = std::fs::read_to_string(Path::new(pod).join("cgroup")).unwrap_or_default();
        let mut parts = joined.split('/');
        let node = parts.find(|part| !part.is_empty());
        node.is_some_and(|node| node.starts_with("bht") && node != self.namespace)
    }

    /// What is left once nothing more of it goes: containerd has the shim clean
    /// up after one that was killed, and lets nobody know when it has.
    pub async fn left_after(&self, limit: Duration) -> Vec<String> {
        let deadline = Instant::now() + limit;
        loop {
            let left = self.leftovers();
            if left.is_empty() || Instant::now() > deadline {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A pod that runs already.
    #[must_use]
    pub fn known_pod(&self, id: &str) -> Pod<'_> {
        Pod {
            node: self,
            id: id.to_owned(),
            config: PodSandboxConfig::default(),
        }
    }

    /// A container that exists already; where its log is is not known.
    #[must_use]
    pub fn known_container(&self, id: &str) -> Container<'_> {
        Container {
            node: self,
            id: id.to_owned(),
            log: PathBuf::new(),
        }
    }

    /// The monitor of a pod: the child of its shim.
    #[must_use]
    pub fn monitor_of(&self, pod: &Pod<'_>) -> u32 {
        let of = |pid: u32| arguments(pid).contains(&pod.id);
        let monitors = self.monitors();
        let own = monitors
            .into_iter()
            .find(|pid| parent(*pid).is_some_and(of));
        own.expect("the pod has a monitor")
    }

    /// Process ids of the monitors of this node's pods.
    #[must_use]
    pub fn monitors(&self) -> Vec<u32> {
        self.children("qemu-system")
    }

    /// Process ids of the file servers of this node's pods.
    #[must_use]
    pub fn file_servers(&self) -> Vec<u32> {
        self.children("bulkhead-file-server")
    }

    /// Children of the shims with a word in their arguments.
    fn children(&self, word: &str) -> Vec<u32> {
        let shims = self.shims();
        let children = processes(|args| args.contains(word));
        let own = |pid: &u32| parent(*pid).is_some_and(|parent| shims.contains(&parent));
        children.into_iter().filter(own).collect()
    }

    /// Process ids of the shims that serve this node.
    #[must_use]
    pub fn shims(&self) -> Vec<u32> {
        self.shims_with("")
    }

    /// Those of them that clean up after another, which containerd runs.
    #[must_use]
    pub fn cleaners(&self) -> Vec<u32> {
        self.shims_with(" delete")
    }

    /// Those whose arguments end like this.
    fn shims_with(&self, end: &str) -> Vec<u32> {
        let socket = self.path().join("containerd.sock").display().to_string();
        processes(|args| {
            args.contains("containerd-shim-") && args.contains(&socket) && args.ends_with(end)
        })
    }

    /// Waits until no shim is left, a moment: it outlives by that much the answer
    /// that its pod is gone.
    pub async fn no_shims(&self) {
        let deadline = Instant::now() + GONE;
        while !self.shims().is_empty() {
            assert!(Instant::now() < deadline, "{:?} are left", self.shims());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Process id of containerd, while it runs.
    #[must_use]
    pub fn containerd(&self) -> Vec<u32> {
        let own = self.containerd.as_ref().map(Child::id);
        own.into_iter().collect()
    }

    /// Ends containerd as a crash does.
    pub fn kill_containerd(&mut self) {
        if let Some(mut containerd) = self.containerd.take() {
            let _ = containerd.kill();
            let _ = containerd.wait();
        }
    }

    /// Starts containerd again.
    pub async fn start_containerd(&mut self) {
        self.containerd = Some(containerd::spawn(self.path(), &self.namespace));
        let channel = containerd::channel(self.path());
        self.runtime = RuntimeServiceClient::new(channel.clone());
        self.images = ImageServiceClient::new(channel);
        self.answers().await;
    }

    /// Waits for containerd, as the kubelet does: by asking. The first question
    /// after a restart also makes the connection anew.
    pub async fn answers(&self) {
        let deadline = Instant::now() + UP;
        loop {
            let request = k8s_cri::v1::StatusRequest { verbose: false };
            if self.runtime.clone().status(request).await.is_ok() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "containerd does not answer: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What containerd and the shims said, for people.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill_containerd();
        bare::stop(self.path());
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("the last lines of containerd's log:\n{}", last.join("\n"));
        }
        for pid in self.shims() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        // What runc runs is not its shim's child to die with it.
        let group = format!("/{}", self.namespace);
        for pid in in_cgroup(&group) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        tool("ip", &["netns", "delete", &self.namespace]);
        // As the kubelet does: the pods' groups are the shims' business.
        remove_cgroup(&self.namespace);
    }
}

fn namespaces() -> NamespaceOption {
    NamespaceOption {
        network: NamespaceMode::Pod.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

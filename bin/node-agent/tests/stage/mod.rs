//! A cluster in memory, a machine that is a directory, and the agent's own
//! program between them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

use bulkhead_apiserver::{Options, Server};
use bulkhead_kataconfig::{Action, KataNode, KataNodeStatus, NodePhase, crds};
use futures_util::StreamExt;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config};
use serde_json::{Value, json};

/// Who the agent is to the API server.
pub(crate) const USER: &str = "system:serviceaccount:bulkhead-system:bulkhead-node-agent";
const NODE: &str = "worker-1";
const MACHINE: &str = "0123456789abcdef0123456789abcdef";
/// Longest anything here may take; a hang is a failure.
const HANG: Duration = Duration::from_secs(60);
const CONFIG: &str = "# the administrator's\nversion = 2\n\
    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.foreign]\n\
    runtime_type = \"io.containerd.foreign.v2\"";

/// The objects of a file of `deploy/`.
pub(crate) fn documents(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let text = std::fs::read_to_string(path.join(file)).unwrap();
    text.split("\n---\n")
        .map(|part| serde_saphyr::from_str(part).unwrap())
        .collect()
}

/// Everything below a directory: mode, owner, contents.
pub(crate) type Files = BTreeMap<PathBuf, String>;

pub(crate) struct Stage {
    pub(crate) server: Server,
    api: Api<KataNode>,
    dir: tempfile::TempDir,
    agent: Option<Child>,
    address: Option<String>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let server = Server::start(Options::default()).await.unwrap();
        for crd in crds() {
            server.load(serde_json::to_value(crd).unwrap()).unwrap();
        }
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": "bulkhead-system" } });
        server.load(namespace).unwrap();
        for object in documents("node-agent/rbac.yaml") {
            server.load(object).unwrap();
        }
        server.enforce_rbac(true);
        let client = Client::try_from(Config::new(server.url().parse().unwrap())).unwrap();
        let dir = tempfile::tempdir().unwrap();
        machine(&dir.path().join("host"));
        payload(&dir.path().join("payload"));
        std::fs::write(dir.path().join("kubeconfig"), server.kubeconfig(Some(USER))).unwrap();
        let stage = Self {
            server,
            api: Api::all(client),
            dir,
            agent: None,
            address: None,
        };
        stage.restart_with("");
        stage
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the machine has what is installed.
    pub(crate) fn home(&self) -> PathBuf {
        self.at("host/opt/bulkhead")
    }

    /// What a restart of the machine's runtime does.
    pub(crate) fn restart_with(&self, script: &str) {
        let path = self.at("restart");
        let count = self.at("restarts").display().to_string();
        // In the place of one that may run.
        let new = self.at("restart.new");
        std::fs::write(&new, format!("#!/bin/sh\necho x >> {count}\n{script}\n")).unwrap();
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// How often the machine's runtime was restarted.
    pub(crate) fn restarts(&self) -> usize {
        let text = std::fs::read_to_string(self.at("restarts")).unwrap_or_default();
        text.lines().count()
    }

    /// The configuration of the machine's runtime.
    pub(crate) fn config(&self) -> String {
        std::fs::read_to_string(self.at("host/etc/containerd/config.toml")).unwrap()
    }

    pub(crate) fn start(&mut self) {
        // What is measured is built otherwise.
        let program = std::env::var_os("BULKHEAD_NODE_AGENT_PROGRAM");
        let own = || env!("CARGO_BIN_EXE_bulkhead-node-agent").into();
        let agent = Command::new(program.unwrap_or_else(own))
            .args(["--node-name", NODE, "--payload-release", "1.0.0"])
            .args(["--runtime-version", "1.6", "--allow-emulation"])
            .arg("--kubeconfig")
            .arg(self.at("kubeconfig"))
            .arg("--host-root")
            .arg(self.at("host"))
            .arg("--payload")
            .arg(self.at("payload"))
            .arg("--restart-with")
            .arg(self.at("restart"))
            .args(["--metrics-address", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut agent = agent.unwrap();
        self.address = Some(address(agent.stderr.take().unwrap()));
        self.agent = Some(agent);
    }

    /// Asks the agent by HTTP; answers the status and the text.
    pub(crate) fn ask(&self, path: &str) -> (String, String) {
        let address = self.address.as_ref().unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap();
        (status.to_owned(), text.to_owned())
    }

    /// A figure of the agent's.
    pub(crate) fn figure(&self, name: &str) -> Option<f64> {
        let (_, text) = self.ask("/metrics");
        let mut lines = text.lines();
        let rest = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        rest.parse().ok()
    }

    /// A figure of its memory, KiB, as proc_pid_status(5) names it.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let pid = self.agent.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Gives the payload a file of a size.
    pub(crate) fn weigh(&self, bytes: u64) {
        let file = std::fs::File::create(self.at("payload/guest/guests/tuned-1/initramfs"));
        file.unwrap().set_len(bytes).unwrap();
    }

    /// Asks it to end, and waits for that.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(self.agent.as_ref().unwrap());
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.wait()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.agent.take().unwrap().wait().unwrap()
    }

    /// What the operator writes first, with changes to its spec.
    pub(crate) async fn create(&self, changes: Value) {
        let mut spec = json!({
            "kataConfig": "example", "machineId": MACHINE, "version": "1.0.0",
            "handlers": [{ "name": "kata" }],
            // There is no runtime to run pods here.
            "verification": { "enabled": false, "interval": "1s" },
        });
        merge(&mut spec, &changes);
        let node = json!({
            "apiVersion": "kataconfiguration.openshift.io/v1alpha1", "kind": "KataNode",
            "metadata": { "name": NODE }, "spec": spec,
        });
        let node: KataNode = serde_json::from_value(node).unwrap();
        self.api
            .create(&PostParams::default(), &node)
            .await
            .unwrap();
    }

    /// Another order.
    pub(crate) async fn order(&self, action: Action, changes: Value) {
        let mut spec = json!({ "action": action, "machineId": MACHINE, "version": "1.0.0" });
        merge(&mut spec, &changes);
        let patch = Patch::Merge(json!({ "spec": spec }));
        let params = PatchParams::default();
        self.api.patch(NODE, &params, &patch).await.unwrap();
    }

    /// Waits, by a watch, for what the agent tells of the present order.
    pub(crate) async fn until(
        &self,
        what: &str,
        holds: impl Fn(&KataNodeStatus) -> bool,
    ) -> KataNodeStatus {
        let news = watcher(self.api.clone(), watcher::Config::default()).default_backoff();
        let mut news = std::pin::pin!(news);
        let wait = async {
            loop {
                let node = self.api.get(NODE).await.unwrap();
                let told = node.status.unwrap_or_default();
                if told.observed_generation == node.metadata.generation && holds(&told) {
                    return told;
                }
                let _ = news.next().await;
            }
        };
        match tokio::time::timeout(HANG, wait).await {
            Ok(told) => told,
            Err(_) => panic!("{what} never came: {:#?}", self.api.get(NODE).await),
        }
    }

    /// Starts the agent, and waits until it has installed.
    pub(crate) async fn install(&mut self) {
        self.start();
        self.create(json!({ "action": "install" })).await;
        let ready = |told: &KataNodeStatus| told.phase == NodePhase::Ready;
        self.until("Ready", ready).await;
    }

    /// Waits until the machine's files are as they were. Nothing tells of that.
    pub(crate) async fn until_files(&self, files: &Files) {
        let wait = async {
            while self.files() != *files {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let came = tokio::time::timeout(HANG, wait).await;
        assert!(came.is_ok(), "the files never came back");
    }

    pub(crate) fn files(&self) -> Files {
        let mut found = Files::new();
        look(&self.at("host"), &mut found);
        found
    }
}

/// Where a program says it serves; what else it says is passed on.
fn address(stderr: ChildStderr) -> String {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            eprintln!("{line}");
            if let Some((_, address)) = line.split_once("serving metrics address=") {
                let _ = sender.send(address.to_owned());
            }
        }
    });
    receiver.recv_timeout(HANG).unwrap()
}

fn merge(into: &mut Value, changes: &Value) {
    for (key, value) in changes.as_object().unwrap().clone() {
        into[key] = value;
    }
}

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// A machine with a containerd, as far as its files are looked at.
fn machine(root: &Path) {
    for name in ["opt", "run/lock"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    write(&root.join("etc/machine-id"), &format!("{MACHINE}\n"), 0o444);
    write(&root.join("etc/containerd/config.toml"), CONFIG, 0o640);
    for name in ["usr/bin/qemu-system-x86_64", "usr/sbin/mke2fs"] {
        write(&root.join(name), "", 0o755);
    }
}

/// Something to install that is none, but for a shim that can run.
fn payload(dir: &Path) {
    for name in ["kernel", "initramfs", "manifest.json"] {
        write(&dir.join("guest/guests/tuned-1").join(name), name, 0o644);
    }
    write(&dir.join("bulkhead"), "bulkhead", 0o755);
    std::fs::copy("/bin/sleep", dir.join("containerd-shim-bulkhead-v2")).unwrap();
}

/// What goes while it is looked at is not there.
fn look(path: &Path, found: &mut Files) {
    let Ok(meta) = std::fs::symlink_metadata(path) else {
        return;
    };
    let what = if meta.is_dir() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            look(&entry.path(), found);
        }
        String::new()
    } else if meta.is_symlink() {
        std::fs::read_link(path)
            .unwrap_or_default()
            .display()
            .to_string()
    } else {
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    };
    let head = format!("{:o} {} {}", meta.mode(), meta.uid(), meta.gid());
    found.insert(path.to_owned(), format!("{head} {what}"));
}

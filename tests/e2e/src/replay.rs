//! What a container manager does: bundles, pipes, the shim's `start`, and the calls
//! of a short life.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{
    CreateTaskRequest, DeleteRequest, ExecProcessRequest, KillRequest, ShutdownRequest,
    StartRequest, WaitRequest,
};
use containerd_shim_protos::shim_async::{Client, TaskClient};
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};
use ttrpc::context::{Context, with_duration};

use crate::tool;

/// Executes the shim's `start` in a bundle; the address it prints.
pub fn start(bundle: &Path, namespace: &str, id: &str) -> String {
    let shim = crate::program().with_file_name("containerd-shim-bulkhead-v2");
    let output = Command::new(shim)
        .args(["-namespace", namespace, "-address", ""])
        .args(["-publish-binary", "/usr/bin/crio", "-id", id, "start"])
        .env("TTRPC_ADDRESS", "")
        .current_dir(bundle)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
    assert!(output.status.success(), "{}", text(output.stderr));
    text(output.stdout)
}

/// A spec as CRI-O or containerd write it, but for what does not matter here.
pub fn spec(root: &Path, script: &str, annotations: &Value) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/bin/sh", "-c", script], "cwd": "/", "user": {"uid": 0, "gid": 0},
            "env": ["PATH=/bin"],
        },
        "root": {"path": root},
        "hostname": "replayed",
        "annotations": annotations,
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "mount"},
            ],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        },
    })
}

/// A named pipe, as the managers make them for a process.
pub fn fifo(path: &Path) -> String {
    tool("mkfifo", &[&path.display().to_string()]);
    path.display().to_string()
}

/// Everything a pipe says until its last writer is gone.
pub fn reader(path: String) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        let mut file = std::fs::File::open(path).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    })
}

/// How long a call may take.
#[must_use]
pub fn limit() -> Context {
    with_duration(Duration::from_secs(60))
}

/// A value as the managers put it into a call.
pub fn encoded(value: &Value) -> MessageField<Any> {
    MessageField::some(Any {
        value: serde_json::to_vec(value).unwrap(),
        ..Default::default()
    })
}

/// CRI-O's options of a handler, with settings for pods that are the same
/// everywhere: `runtimeoptions.v1.Options{ConfigPath}`.
fn options(dir: &Path) -> MessageField<Any> {
    let config = dir.join("config.toml");
    let settings = format!(
        "accelerator = \"{}\"\nlayers_mib = 0\n",
        crate::accelerator()
    );
    std::fs::write(&config, settings).unwrap();
    let path = config.display().to_string();
    let mut value = vec![0x12, u8::try_from(path.len()).unwrap()];
    value.extend(path.as_bytes());
    MessageField::some(Any {
        type_url: "runtimeoptions.v1.Options".to_owned(),
        value,
        ..Default::default()
    })
}

/// The creation of what is in a bundle, with options that lie in `dir`.
#[must_use]
pub fn creation(dir: &Path, id: &str, bundle: &Path) -> CreateTaskRequest {
    CreateTaskRequest {
        id: id.to_owned(),
        bundle: bundle.display().to_string(),
        options: options(dir),
        ..Default::default()
    }
}

/// What CRI-O says of a pod or of a container in it.
#[must_use]
pub fn crio_annotations(kind: &str, pod: &str) -> Value {
    json!({
        "io.kubernetes.cri-o.ContainerType": kind,
        "io.kubernetes.cri-o.SandboxID": pod,
        "io.kubernetes.pod.name": "replayed",
        "io.kubernetes.pod.namespace": "default",
        "io.kubernetes.pod.uid": "uid",
    })
}

/// A shim's process, and the calls of its manager. `exec` is empty for a container's
/// first process.
pub struct Shim {
    /// Where it listens.
    pub address: String,
    /// What else it can be asked.
    pub task: TaskClient,
}

impl Shim {
    /// Starts the shim of a bundle.
    pub async fn start(bundle: &Path, id: &str) -> Self {
        Self::at(start(bundle, "default", id)).await
    }

    /// The shim that listens there.
    pub async fn at(address: String) -> Self {
        let client = Client::connect(&address).await.unwrap();
        Self {
            address,
            task: TaskClient::new(client),
        }
    }

    /// Starts a process.
    pub async fn begin(&self, id: &str, exec: &str) {
        let begin = StartRequest {
            id: id.to_owned(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        self.task.start(limit(), &begin).await.unwrap();
    }

    /// Makes a further process, a script whose output goes to `stdout`, and starts it.
    pub async fn exec(&self, id: &str, exec: &str, script: &str, stdout: String) {
        let request = ExecProcessRequest {
            id: id.to_owned(),
            exec_id: exec.to_owned(),
            stdout,
            spec: encoded(&json!({
                "args": ["/bin/sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"],
                "user": {"uid": 0, "gid": 0},
            })),
            ..Default::default()
        };
        self.task.exec(limit(), &request).await.unwrap();
        self.begin(id, exec).await;
    }

    /// Sends a signal to a container's first process, or to all it has.
    ///
    /// # Errors
    /// The shim's.
    pub async fn kill(&self, id: &str, signal: u32, all: bool) -> ttrpc::Result<()> {
        let kill = KillRequest {
            id: id.to_owned(),
            signal,
            all,
            ..Default::default()
        };
        self.task.kill(limit(), &kill).await.map(drop)
    }

    /// How a process ended.
    pub async fn wait(&self, id: &str, exec: &str) -> u32 {
        let wait = WaitRequest {
            id: id.to_owned(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        self.task.wait(limit(), &wait).await.unwrap().exit_status
    }

    /// Removes a process that has ended.
    pub async fn delete(&self, id: &str, exec: &str) {
        let delete = DeleteRequest {
            id: id.to_owned(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        self.task.delete(limit(), &delete).await.unwrap();
    }

    /// Ends the process, and waits for its end.
    pub async fn shut_down(&self, id: &str) {
        let shutdown = ShutdownRequest {
            id: id.to_owned(),
            now: true,
            ..Default::default()
        };
        let _ = self.task.shutdown(limit(), &shutdown).await;
        gone(&self.address).await;
    }
}

/// CRI-O's bundles: not side by side.
pub fn crio_bundle(dir: &Path, id: &str, spec: &Value) -> PathBuf {
    let bundle = dir.join("overlay-containers").join(id).join("userdata");
    std::fs::create_dir_all(&bundle).unwrap();
    std::fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
    bundle
}

/// Waits for the end of the pod's process, with which its directory goes.
pub async fn gone(address: &str) {
    let socket = PathBuf::from(address.trim_start_matches("unix://"));
    let deadline = Instant::now() + Duration::from_secs(20);
    while socket.exists() {
        assert!(Instant::now() < deadline, "{address} is left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

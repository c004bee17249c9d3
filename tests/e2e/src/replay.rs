//! What a container manager does beside its calls: bundles, pipes, the shim's
//! `start`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

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
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while socket.exists() {
        assert!(std::time::Instant::now() < deadline, "{address} is left");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

//! A node on which nothing of Bulkhead is: its `/etc`, `/opt` and `/run/lock`
//! are a directory of the test's, and containerd finds no shim on its PATH.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Node;
use crate::{Answer, program, write_program};

/// What the administrator of the node wrote, as administrators do.
const CONFIG: &str = r#"# Managed by hand.
version = 2
root = "@DIR/root"
state = "@DIR/state"
[grpc]
  address = "@DIR/containerd.sock"
# Its socket would be the same for the nodes of all tests.
[plugins."io.containerd.nri.v1.nri"]
  disable = true

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"   # from our mirror
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "@DIR/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  # Somebody else's, and no line break at the end:
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.foreign]
    runtime_type = "io.containerd.runc.v2""#;

/// Starts containerd: its process id is the script's own. `/opt` is the
/// node's, in a mount namespace that ends with containerd and its pods.
const START: &str = r#"#!/bin/sh
echo $$ > @DIR/pid
exec nsenter --net=/run/netns/@NAMESPACE unshare --mount --propagation slave \
  sh -c 'mount --bind @DIR/host/opt /opt &&
    exec containerd --config @DIR/host/etc/containerd/config.toml'
"#;

/// Stops the containerd that runs, if one does, and starts one; returns when it is up,
/// as a service manager does.
const RESTART: &str = r#"#!/bin/sh
echo restarted >> @DIR/restarts
pid=$(cat @DIR/pid 2>/dev/null)
if [ -n "$pid" ]; then
  kill "$pid" 2>/dev/null
  while readlink "/proc/$pid/exe" > /dev/null; do sleep 0.05; done
fi
setsid @DIR/start < /dev/null >> @DIR/log 2>&1 &
for try in $(seq 200); do
  ctr --connect-timeout 1s --address @DIR/containerd.sock version > /dev/null 2>&1 && exit 0
  sleep 0.05
done
exit 1
"#;

pub(super) fn configure(dir: &Path, namespace: &str) {
    let fill = |text: &str| {
        text.replace("@DIR", &dir.display().to_string())
            .replace("@NAMESPACE", namespace)
    };
    for name in ["host/opt", "host/etc/containerd", "host/run/lock"] {
        std::fs::create_dir_all(dir.join(name)).unwrap();
    }
    // What is installed beforehand, as far as its place is looked at.
    for name in ["usr/bin/qemu-system-x86_64", "usr/sbin/mke2fs"] {
        let path = dir.join("host").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(Path::new("/").join(name), path).unwrap();
    }
    let config = dir.join("host/etc/containerd/config.toml");
    std::fs::write(&config, fill(CONFIG)).unwrap();
    std::fs::set_permissions(&config, PermissionsExt::from_mode(0o640)).unwrap();
    for (name, text) in [("start", START), ("restart", RESTART)] {
        write_program(&dir.join(name), &fill(text));
    }
}

pub(super) fn restart(dir: &Path) {
    let status = Command::new(dir.join("restart"))
        .stdin(Stdio::null())
        .status();
    let log = std::fs::read_to_string(dir.join("log"));
    assert!(status.unwrap().success(), "containerd: {log:?}");
}

/// Ends the containerd that runs.
pub(super) fn stop(dir: &Path) {
    if let Ok(pid) = std::fs::read_to_string(dir.join("pid")) {
        let _ = Command::new("kill").args(["-9", pid.trim()]).status();
    }
}

impl Node {
    /// Runs `bulkhead node VERB` for this node.
    #[must_use]
    pub fn bulkhead(&self, verb: &str, args: &[&str]) -> Answer {
        let restart = self.path().join("restart").display().to_string();
        self.bulkhead_with(verb, &restart, args)
    }

    /// The same, with another program to restart containerd.
    #[must_use]
    pub fn bulkhead_with(&self, verb: &str, restart: &str, args: &[&str]) -> Answer {
        let mut command = Command::new(program());
        command.args(["node", verb, "--host-root"]).arg(self.host());
        command
            .arg("--socket")
            .arg(self.path().join("containerd.sock"));
        command.args(["--check-with", "containerd"]);
        if matches!(verb, "install" | "uninstall") {
            command.args(["--restart-with", restart]);
        }
        if verb == "install" {
            let accelerator = format!("accelerator={}", crate::accelerator());
            command.args(["--allow-emulation", "--set", &accelerator]);
        }
        Answer::of(command.args(args))
    }

    /// The directory that is the node's `/`, as far as it has one.
    #[must_use]
    pub fn host(&self) -> PathBuf {
        self.path().join("host")
    }

    /// How often containerd was started.
    #[must_use]
    pub fn starts(&self) -> usize {
        let text = std::fs::read_to_string(self.path().join("restarts")).unwrap();
        text.lines().count()
    }

    /// Everything of the node's `/`: path, mode, owner, contents.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        look(&self.host(), &mut found);
        found.sort();
        found
    }
}

fn look(path: &Path, found: &mut Vec<String>) {
    let meta = std::fs::symlink_metadata(path).unwrap();
    let what = if path.ends_with("bulkhead/layers") {
        // A cache, which fills when pods have run; that it is there is told.
        String::new()
    } else if meta.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            look(&entry.unwrap().path(), found);
        }
        String::new()
    } else if meta.is_symlink() {
        std::fs::read_link(path).unwrap().display().to_string()
    } else {
        std::fs::read_to_string(path).unwrap_or_else(|_| format!("{} bytes", meta.len()))
    };
    let head = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
    found.push(format!("{} {head} {what}", path.display()));
}

//! What is measured side by side: each runs the same root filesystem.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::run::Outcome;

/// Prints a byte, computes, prints a byte.
const WORK: &str = "echo a; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo b";

/// A runtime.
pub(super) enum Contender {
    /// `bulkhead run`, from cached layers.
    Bulkhead { image: String, root: PathBuf },
    /// An OCI runtime of that name, by `run --bundle`.
    Runtime { name: &'static str, bundle: PathBuf },
}

impl Contender {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Bulkhead { .. } => "bulkhead",
            Self::Runtime { name, .. } => name,
        }
    }

    fn command(&self, script: &str) -> Outcome<Command> {
        match self {
            Self::Bulkhead { image, root } => {
                Ok(run_command(root, image, &[], &["sh", "-c", script]))
            }
            Self::Runtime { name, bundle } => {
                write_script(bundle, script)?;
                let mut command = Command::new(name);
                if *name == "runsc" {
                    command.args(["--network=none", "--ignore-cgroups"]);
                }
                let id = format!("bulkhead-bench-{}", std::process::id());
                command.arg("run").arg("--bundle").arg(bundle).arg(id);
                Ok(command)
            }
        }
    }

    /// From starting the command to the first byte of the workload.
    pub(super) fn start(&self) -> Outcome<Duration> {
        self.between("echo a", 1).map(|(first, _)| first)
    }

    /// Of a loop in the workload: from its first byte to its last.
    pub(super) fn compute(&self) -> Outcome<Duration> {
        self.between(WORK, 4).map(|(first, last)| last - first)
    }

    fn between(&self, script: &str, bytes: usize) -> Outcome<(Duration, Duration)> {
        let failed = |error: std::io::Error| format!("`{}`: {error}", self.name());
        let mut command = self.command(script)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(Stdio::piped());
        let start = Instant::now();
        let mut child = command.spawn().map_err(failed)?;
        let mut out = child.stdout.take().ok_or("no pipe")?;
        let mut times = Vec::new();
        let mut byte = [0];
        while times.len() < bytes && out.read(&mut byte).map_err(failed)? == 1 {
            times.push(start.elapsed());
        }
        drop(out);
        let output = child.wait_with_output().map_err(failed)?;
        match times.as_slice() {
            [first, .., last] | [first @ last] if times.len() == bytes => Ok((*first, *last)),
            _ => Err(format!(
                "`{}` gave no answer: {}",
                self.name(),
                String::from_utf8_lossy(&output.stderr).trim()
            )),
        }
    }
}

/// The program under test, with its own place for containers.
pub(super) fn bulkhead(root: &Path) -> Command {
    let program = crate::run::workspace().join("target/release/bulkhead");
    let mut command = Command::new(program);
    command.env("BULKHEAD_ROOT", root);
    command
}

/// A container without network that is removed at its end.
pub(super) fn run_command(root: &Path, image: &str, options: &[&str], words: &[&str]) -> Command {
    let mut command = bulkhead(root);
    command.args(["run", "--rm", "--network", "none"]);
    command.args(options).arg(image).args(words);
    command
}

/// Runtimes found on PATH, with a bundle each shares.
pub(super) fn runtimes(bundle: &Path) -> Vec<Contender> {
    let names = ["crun", "runc", "runsc"];
    let found = names.into_iter().filter(|name| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&paths).any(|dir| dir.join(name).exists())
    });
    found
        .map(|name| Contender::Runtime {
            name,
            bundle: bundle.to_owned(),
        })
        .collect()
}

fn write_script(bundle: &Path, script: &str) -> Outcome {
    let mounts = [("proc", "/proc"), ("tmpfs", "/dev")]
        .map(|(kind, at)| serde_json::json!({"destination": at, "type": kind, "source": kind}));
    let spaces = ["pid", "network", "ipc", "uts", "mount"].map(|t| serde_json::json!({"type": t}));
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": ["sh", "-c", script],
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        },
        "root": {"path": "busybox"},
        "mounts": mounts,
        "linux": {"namespaces": spaces},
    });
    std::fs::write(bundle.join("config.json"), config.to_string()).map_err(|e| e.to_string())
}

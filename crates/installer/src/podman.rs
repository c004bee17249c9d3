//! A container by Podman, to see whether a runtime of its configuration works.
//!
//! Podman has no image every machine has, and pulls none here: the container's files are
//! the machine's own `/usr`, only read.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::handler::HandlerName;
use crate::seams::{Reason, Smoke, output};

/// What runs in the trial.
const COMMAND: &str = "/usr/bin/true";

/// Links of the machine's root into `/usr`, or directories, which programs need.
const ROOTS: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// Podman, where it can be executed.
#[derive(Debug)]
pub struct Podman {
    program: PathBuf,
}

impl Podman {
    /// The one on PATH. Below another root than `/` there is none to execute.
    #[must_use]
    pub fn of(root: &Path) -> Option<Self> {
        let path = std::env::var_os("PATH").filter(|_| root == Path::new("/"))?;
        let program = std::env::split_paths(&path)
            .map(|dir| dir.join("podman"))
            .find(|path| path.is_file())?;
        Some(Self { program })
    }
}

impl Smoke for Podman {
    fn run(&mut self, handler: &HandlerName) -> Result<(), Reason> {
        let root = Root::make()?;
        let mut command = Command::new(&self.program);
        command
            .args(["--runtime", handler.as_str(), "run", "--rm"])
            .args(["--network", "none", "--security-opt", "label=disable"])
            .args(["--volume", "/usr:/usr:ro"]);
        for volume in &root.volumes {
            command.arg("--volume").arg(volume);
        }
        command.arg("--rootfs").arg(&root.dir).arg(COMMAND);
        output(&mut command)?;
        Ok(())
    }
}

/// A root filesystem that is links and places of mounts; gone with this.
struct Root {
    dir: PathBuf,
    volumes: Vec<String>,
}

impl Root {
    fn make() -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let name = format!("bulkhead-trial-{}", std::process::id());
        let root = Self {
            dir: Path::new("/run").join(name),
            volumes: ROOTS
                .iter()
                .filter(|name| Path::new("/").join(name).is_dir())
                .filter(|name| !Path::new("/").join(name).is_symlink())
                .map(|name| format!("/{name}:/{name}:ro"))
                .collect(),
        };
        std::fs::DirBuilder::new().mode(0o755).create(&root.dir)?;
        for name in ROOTS {
            if let Ok(target) = std::fs::read_link(Path::new("/").join(name)) {
                std::os::unix::fs::symlink(target, root.dir.join(name))?;
            }
        }
        Ok(root)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // Nothing is mounted in it but in namespaces of others.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

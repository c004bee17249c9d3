//! One image: a tree of files, written as an OCI layout by `umoci`.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use super::libraries;
use crate::run::{self, Outcome};

/// What every time in an image is, so that the same files make the same image.
const TIME: &str = "1970-01-01T00:00:00Z";

/// An image that is not written yet.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) name: &'static str,
    pub(crate) entrypoint: &'static str,
    /// User and group, as numbers.
    pub(crate) user: &'static str,
    pub(crate) tree: Tree,
}

/// The files of an image, in a directory that goes with this.
#[derive(Debug)]
pub(crate) struct Tree(tempfile::TempDir);

impl Tree {
    pub(crate) fn new() -> Outcome<Self> {
        let dir =
            tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).map_err(text(dir.path()))?;
        Ok(Self(dir))
    }

    /// Adds a file, with its mode and nothing else of it.
    pub(crate) fn add(&mut self, from: &Path, to: impl AsRef<Path>) -> Outcome {
        let to = self.0.path().join(to);
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir).map_err(text(dir))?;
        }
        fs::copy(from, &to).map_err(text(from))?;
        let executable = fs::metadata(from).map_err(text(from))?.permissions().mode() & 0o111 != 0;
        let mode = if executable { 0o755 } else { 0o644 };
        fs::set_permissions(&to, Permissions::from_mode(mode)).map_err(text(&to))
    }

    /// Adds what programs are linked with, where they look for it.
    pub(crate) fn add_libraries(&mut self, programs: &[&Path]) -> Outcome {
        for program in programs {
            for library in libraries::of(program)? {
                let to = library.strip_prefix("/").unwrap_or(&library).to_owned();
                self.add(&library, to)?;
            }
        }
        Ok(())
    }
}

impl Image {
    /// Writes it, in the place of one that is there.
    pub(crate) fn write(&self, layout: &Path, version: &str) -> Outcome {
        if layout.join("oci-layout").exists() {
            fs::remove_dir_all(layout).map_err(text(layout))?;
        }
        if let Some(dir) = layout.parent() {
            fs::create_dir_all(dir).map_err(text(dir))?;
        }
        age(self.tree.0.path())?;
        umoci(
            Command::new("umoci")
                .arg("init")
                .arg("--layout")
                .arg(layout),
        )?;
        let image = format!("{}:{version}", layout.display());
        umoci(Command::new("umoci").args(["new", "--image", &image]))?;
        let mut insert = Command::new("umoci");
        insert.args(["insert", "--image", &image, "--history.created", TIME]);
        if !root() {
            insert.arg("--rootless");
        }
        umoci(insert.arg(self.tree.0.path()).arg("/"))?;
        let config = [
            ["--config.entrypoint", self.entrypoint],
            ["--config.user", self.user],
            ["--created", TIME],
            ["--history.created", TIME],
            ["--os", "linux"],
            ["--architecture", "amd64"],
        ];
        let version = format!("org.opencontainers.image.version={version}");
        umoci(
            Command::new("umoci")
                .args(["config", "--image", &image])
                .args(config.concat())
                .args(["--config.label", &version]),
        )?;
        umoci(Command::new("umoci").arg("gc").arg("--layout").arg(layout))
    }
}

/// Sets the times of everything in a directory back.
fn age(path: &Path) -> Outcome {
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(text(path))? {
            age(&entry.map_err(text(path))?.path())?;
        }
    }
    let times = FileTimes::new()
        .set_modified(SystemTime::UNIX_EPOCH)
        .set_accessed(SystemTime::UNIX_EPOCH);
    let file = File::open(path).map_err(text(path))?;
    file.set_times(times).map_err(text(path))
}

fn umoci(command: &mut Command) -> Outcome {
    run::command(command).map_err(|error| format!("{error} (`apt install umoci`)"))
}

fn root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| {
        use std::os::unix::fs::MetadataExt;
        meta.uid() == 0
    })
}

fn text(path: &Path) -> impl Fn(std::io::Error) -> String {
    let path: PathBuf = path.to_owned();
    move |error| format!("`{}`: {error}", path.display())
}

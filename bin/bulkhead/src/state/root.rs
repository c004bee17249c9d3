//! The directory that holds everything.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::{ContainerDir, Record, StateError, id};

/// Containers listed at most; a directory beyond it is somebody else's.
const CONTAINER_LIMIT: usize = 100_000;

/// Where Bulkhead keeps containers and images.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    path: PathBuf,
}

impl Root {
    /// Opens or makes it.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        let containers = path.join("containers");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&containers)
            .map_err(StateError::io("make", &containers))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where images are.
    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    fn containers(&self) -> PathBuf {
        self.path.join("containers")
    }

    /// Held while a container is made or removed, so that a name has one
    /// owner. Released when the file is dropped.
    fn lock(&self) -> Result<File, StateError> {
        let path = self.path.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(StateError::io("open", &path))?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(|e| StateError::io("lock", &path)(e.into()))?;
        Ok(file)
    }

    /// Every container, in no order. Half-made ones are skipped.
    pub(crate) fn list(&self) -> Result<Vec<ContainerDir>, StateError> {
        let path = self.containers();
        let entries = std::fs::read_dir(&path).map_err(StateError::io("list", &path))?;
        let mut found = Vec::new();
        for entry in entries.take(CONTAINER_LIMIT) {
            let entry = entry.map_err(StateError::io("list", &path))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.len() == id::LENGTH && name.bytes().all(|b| b.is_ascii_hexdigit()) {
                found.push(ContainerDir::at(entry.path()));
            }
        }
        Ok(found)
    }

    /// The container with this name, id, or beginning of an id.
    pub(crate) fn find(&self, wanted: &str) -> Result<ContainerDir, StateError> {
        let mut by_prefix = Vec::new();
        for dir in self.list()? {
            let Ok(record) = dir.record() else { continue };
            if record.name == wanted || record.id == wanted {
                return Ok(dir);
            }
            if !wanted.is_empty() && record.id.starts_with(wanted) {
                by_prefix.push(dir);
            }
        }
        match by_prefix.len() {
            0 => Err(StateError::NoContainer(wanted.to_owned())),
            1 => Ok(by_prefix.remove(0)),
            _ => Err(StateError::Ambiguous(wanted.to_owned())),
        }
    }

    /// Makes a container's directory, whole or not at all.
    pub(crate) fn create(&self, record: &Record) -> Result<ContainerDir, StateError> {
        bulkhead_protocol::name::check(&record.name)?;
        let _lock = self.lock()?;
        for dir in self.list()? {
            let Ok(other) = dir.record() else { continue };
            if other.name == record.name {
                let id = id::short(&other.id).to_owned();
                return Err(StateError::NameTaken {
                    name: other.name,
                    id,
                });
            }
        }
        ContainerDir::create(&self.containers(), record)
    }

    /// Removes what a killed process left half-made or half-removed. Called
    /// by every `ps`; cheap when there is nothing.
    pub(crate) fn collect(&self) -> Result<(), StateError> {
        let path = self.containers();
        let _lock = self.lock()?;
        let entries = std::fs::read_dir(&path).map_err(StateError::io("list", &path))?;
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with('.') {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }

    /// Removes a container's directory: renamed away first, so that a kill in
    /// the middle leaves nothing that looks like a container.
    pub(crate) fn remove(&self, dir: &ContainerDir) -> Result<(), StateError> {
        let _lock = self.lock()?;
        let Some(name) = dir.path().file_name() else {
            return Ok(());
        };
        let away = self
            .containers()
            .join(format!(".{}", name.to_string_lossy()));
        match std::fs::rename(dir.path(), &away) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(StateError::io("remove", dir.path())(error)),
        }
        std::fs::remove_dir_all(&away).map_err(StateError::io("remove", &away))
    }
}

//! One container's directory.

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::record::FORMAT;
use super::{Record, State, StateError, file};

/// A container's directory.
#[derive(Debug, Clone)]
pub(crate) struct ContainerDir {
    path: PathBuf,
}

impl ContainerDir {
    /// The directory at `path`; nothing is checked.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Makes it under another name and renames it, so that it is never seen
    /// half-made. The caller holds the root's lock.
    pub(super) fn create(containers: &Path, record: &Record) -> Result<Self, StateError> {
        let half = Self::at(containers.join(format!(".{}", record.id)));
        let io = |what| StateError::io(what, half.path.clone());
        DirBuilder::new()
            .mode(0o700)
            .create(&half.path)
            .map_err(io("make"))?;
        let filled = half
            .write("record.json", record)
            .and_then(|()| half.write("state.json", &State::starting()))
            .and_then(|()| half.open_lock().map(|_| ()));
        let path = containers.join(&record.id);
        let moved = filled.and_then(|()| {
            std::fs::rename(&half.path, &path).map_err(StateError::io("make", &path))
        });
        if let Err(error) = moved {
            let _ = std::fs::remove_dir_all(&half.path);
            return Err(error);
        }
        Ok(Self { path })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What was asked for.
    pub(crate) fn record(&self) -> Result<Record, StateError> {
        self.read("record.json")
    }

    /// What became of it. When its supervisor was killed this is where that
    /// is noticed and written down.
    pub(crate) fn state(&self) -> Result<State, StateError> {
        let mut state: State = self.read("state.json")?;
        if !state.is_live() {
            return Ok(state);
        }
        let Some(_lock) = self.try_lock()? else {
            return Ok(state);
        };
        // Read again under the lock: it may have ended just now.
        state = self.read("state.json")?;
        if state.is_live() {
            let reason = "the container's supervisor was killed, and its virtual machine with it";
            state.exit(255, Some(reason.to_owned()));
            self.write_state(&state)?;
            let _ = std::fs::remove_file(self.file("control.sock"));
            let _ = std::fs::remove_file(self.file("writable.img"));
        }
        Ok(state)
    }

    /// Replaces the state.
    pub(crate) fn write_state(&self, state: &State) -> Result<(), StateError> {
        self.write("state.json", state)
    }

    /// Takes the supervisor's lock, or tells that it is held.
    pub(crate) fn try_lock(&self) -> Result<Option<OwnedFd>, StateError> {
        let lock = self.open_lock()?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(lock)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(StateError::io("lock", self.file("lock"))(error.into())),
        }
    }

    /// Waits until the supervisor is gone.
    pub(crate) fn wait_unlocked(&self) -> Result<(), StateError> {
        let lock = match self.open_lock() {
            Ok(lock) => lock,
            // Removed in the meantime: gone indeed.
            Err(_) if !self.path.exists() => return Ok(()),
            Err(error) => return Err(error),
        };
        rustix::fs::flock(&lock, FlockOperation::LockShared)
            .map_err(|e| StateError::io("lock", self.file("lock"))(e.into()))
    }

    fn open_lock(&self) -> Result<OwnedFd, StateError> {
        let path = self.file("lock");
        file::open_lock(&path).map_err(StateError::io("open", path))
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T, StateError> {
        let path = self.file(name);
        let bytes = file::read(&path).map_err(StateError::io("read", &path))?;
        let damaged = |source| StateError::Damaged {
            path: path.clone(),
            source,
        };
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(damaged)?;
        if value["format"] != FORMAT {
            return Err(damaged(serde::de::Error::custom(format!(
                "written by another version: format {}",
                value["format"]
            ))));
        }
        serde_json::from_value(value).map_err(damaged)
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), StateError> {
        let path = self.file(name);
        let bytes = serde_json::to_vec_pretty(value).map_err(|source| StateError::Damaged {
            path: path.clone(),
            source,
        })?;
        file::replace(&path, &bytes).map_err(StateError::io("write", &path))
    }
}

#[cfg(test)]
mod tests;

//! Where a container's things are on the host.
//!
//! ```text
//!   /run/bulkhead/oci/ID/     0700
//!     lock                    held by the process that stands for the container
//!     state.json              what was created
//!     bundle/config.json      the spec, as the shim is told
//!     bundle/address          where the shim listens
//! ```
//!
//! `/run` is memory (hier(7)): what a machine that was switched off had is gone.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::state::file;

const ROOT: &str = "/run/bulkhead/oci";

/// Longest address, bytes: unix(7) has less room.
const ADDRESS_LIMIT: u64 = 256;

/// What was created.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The process that stands for the container.
    pub(super) pid: u32,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    /// The container whose machine it is in.
    pub(super) machine: String,
    /// RFC 3339.
    pub(super) created: String,
    pub(super) annotations: BTreeMap<String, String>,
}

/// The directory of one container.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    id: String,
    dir: PathBuf,
}

/// Is there a container of this id?
pub(crate) fn exists(id: &str) -> bool {
    Place::of(id).is_ok_and(|place| place.dir.exists())
}

/// The ids of all.
pub(super) fn ids() -> Result<Vec<String>, Error> {
    let entries = match std::fs::read_dir(ROOT) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("list", ROOT))?,
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut ids: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
    ids.sort_unstable();
    Ok(ids)
}

impl Place {
    /// The place of a container, whether or not it exists.
    pub(super) fn of(id: &str) -> Result<Self, Error> {
        bulkhead_protocol::name::check(id).map_err(|error| Error::Id {
            id: id.to_owned(),
            why: error.to_string(),
        })?;
        Ok(Self {
            id: id.to_owned(),
            dir: Path::new(ROOT).join(id),
        })
    }

    /// The place of a container that exists.
    pub(super) fn find(id: &str) -> Result<Self, Error> {
        let place = Self::of(id)?;
        match place.dir.exists() {
            true => Ok(place),
            false => Err(Error::NoContainer(id.to_owned())),
        }
    }

    /// The place of a container that lives; `wanted` says what for.
    pub(super) fn living(id: &str, wanted: &'static str) -> Result<Self, Error> {
        let place = Self::find(id)?;
        match place.has_ended() {
            false => Ok(place),
            true => Err(Error::Status {
                id: id.to_owned(),
                status: "stopped",
                wanted,
            }),
        }
    }

    /// Makes the directory; the lock, held. One that a killed `create` left, without a
    /// record, is nobody's.
    pub(super) fn make(&self) -> Result<OwnedFd, Error> {
        if self.dir.exists() && self.record().is_err() && self.try_lock().is_ok() {
            self.remove()?;
        }
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700);
        let above = builder.recursive(true).create(ROOT);
        above.map_err(Error::io("make", ROOT))?;
        match builder.recursive(false).create(&self.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::Exists(self.id.clone()));
            }
            made => made.map_err(Error::io("make", &self.dir))?,
        }
        let bundle = self.bundle();
        builder
            .create(&bundle)
            .map_err(Error::io("make", &bundle))?;
        self.try_lock()
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// A file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The bundle the shim is told of.
    pub(super) fn bundle(&self) -> PathBuf {
        self.dir.join("bundle")
    }

    /// Makes another's shim this one's.
    pub(super) fn share_shim(&self, other: &Self) -> Result<(), Error> {
        let path = self.bundle().join("address");
        file::replace(&path, other.address()?.as_bytes()).map_err(Error::io("write", path))
    }

    /// Where the shim listens.
    pub(super) fn address(&self) -> Result<String, Error> {
        let path = self.bundle().join("address");
        let mut text = String::new();
        std::fs::File::open(&path)
            .and_then(|file| file.take(ADDRESS_LIMIT).read_to_string(&mut text))
            .map_err(Error::io("read", path))?;
        Ok(text)
    }

    /// The same, as a path.
    pub(super) fn socket(&self) -> Result<PathBuf, Error> {
        let address = self.address()?;
        Ok(PathBuf::from(address.trim_start_matches("unix://")))
    }

    /// The shim has nothing of the container any more.
    pub(super) fn forget_shim(&self) {
        let _ = std::fs::remove_file(self.bundle().join("address"));
    }

    /// What was created.
    pub(super) fn record(&self) -> Result<Record, Error> {
        let path = self.file("state.json");
        let bytes = file::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Parse { path, source })
    }

    /// Writes it down, whole or not at all.
    pub(super) fn write_record(&self, record: &Record) -> Result<(), Error> {
        let path = self.file("state.json");
        let bytes = serde_json::to_vec(record).map_err(|source| Error::Parse {
            path: path.clone(),
            source,
        })?;
        file::replace(&path, &bytes).map_err(Error::io("write", path))
    }

    fn lock(&self, how: FlockOperation) -> Result<OwnedFd, Error> {
        let lock = file::open_lock(&self.file("lock"));
        let locked = lock.and_then(|lock| {
            rustix::fs::flock(&lock, how)?;
            Ok(lock)
        });
        locked.map_err(Error::io("lock", self.file("lock")))
    }

    fn try_lock(&self) -> Result<OwnedFd, Error> {
        self.lock(FlockOperation::NonBlockingLockExclusive)
    }

    /// Is there nobody any more who stands for the container?
    pub(super) fn has_ended(&self) -> bool {
        self.try_lock().is_ok()
    }

    /// Waits until there is not.
    pub(super) fn wait(&self) -> Result<(), Error> {
        self.lock(FlockOperation::LockShared).map(drop)
    }

    /// Waits for that, but not long; is there nobody?
    pub(super) fn ends_within(&self, time: Duration) -> Result<bool, Error> {
        let place = self.clone();
        let ended = file::within(time, move || place.wait());
        Ok(ended.transpose()?.is_some())
    }

    /// Removes everything.
    pub(super) fn remove(&self) -> Result<(), Error> {
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(Error::io("remove", &self.dir)),
        }
    }
}

//! The directory of images, and what leaves it again.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
    XattrFlags,
};
use rustix::io::Errno;

use crate::pack::{Bounds, pack};
use crate::{Error, Identity};

/// Where an image's layer is, as an extended attribute of the image.
const SOURCE: &str = "user.bulkhead.layer";

/// Bytes of a path at most: PATH_MAX.
const PATH_LIMIT: usize = 4096;

/// What is kept of a layer.
#[derive(Debug)]
pub enum Found {
    /// Its image, opened for reading.
    Image(OwnedFd),
    /// A mark that it cannot be one.
    Unfit,
    /// Nothing yet.
    Nothing,
}

/// What became of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It has an image now.
    New,
    /// It had one, or the mark that it cannot.
    Known,
    /// Its file system keeps no times of birth.
    Unknowable,
}

/// A directory of images that only this user can reach.
#[derive(Debug)]
pub struct Cache {
    dir: OwnedFd,
    path: PathBuf,
}

/// An image, as it is weighed.
struct Kept {
    name: std::ffi::CString,
    bytes: u64,
    used: (i64, u64),
    has_source: bool,
}

impl Cache {
    /// Opens the directory, and makes it where it is not there.
    ///
    /// # Errors
    /// [`Error::Cache`], also when others can write in it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Cache {
            path: path.to_owned(),
            source,
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed)?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        let stat = rustix::fs::fstat(&dir).map_err(|e| failed(e.into()))?;
        let ours = stat.st_uid == rustix::process::geteuid().as_raw();
        if !ours || stat.st_mode & 0o022 != 0 {
            let text = "others can write in it; give it to this user alone";
            return Err(failed(io::Error::other(text)));
        }
        Ok(Self {
            dir,
            path: path.to_owned(),
        })
    }

    /// What is kept of a layer. An image that is found counts as used now.
    #[must_use]
    pub fn find(&self, layer: &Identity) -> Found {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.dir, layer.to_string(), flags, Mode::empty());
        let Ok(image) = opened else {
            return Found::Nothing;
        };
        match rustix::fs::fstat(&image) {
            Ok(stat) if stat.st_size > 0 => {
                let times = Timestamps {
                    last_access: nanoseconds(UTIME_OMIT),
                    last_modification: nanoseconds(UTIME_NOW),
                };
                // Only which goes first depends on it.
                let _ = rustix::fs::futimens(&image, &times);
                Found::Image(image)
            }
            Ok(_) => Found::Unfit,
            Err(_) => Found::Nothing,
        }
    }

    /// Waits until nobody else makes images here; until this is dropped, nobody
    /// else will. flock(2).
    ///
    /// # Errors
    /// [`Error::Cache`].
    pub fn alone(&self) -> Result<(), Error> {
        rustix::fs::flock(&self.dir, FlockOperation::LockExclusive).map_err(|error| Error::Cache {
            path: self.path.clone(),
            source: error.into(),
        })
    }

    /// Makes the image of a layer, a directory of the host that nobody changes
    /// any more; with what cannot be one, a mark that says so.
    ///
    /// # Errors
    /// What cannot be read or written. Nothing is left of it.
    pub fn make(&self, layer: &Path, bounds: Bounds) -> Result<Made, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |error: Errno| Error::Read {
            name: layer.display().to_string(),
            source: error.into(),
        };
        let dir = rustix::fs::open(layer, flags, Mode::empty()).map_err(failed)?;
        let Some(identity) = Identity::of(&dir) else {
            return Ok(Made::Unknowable);
        };
        if !matches!(self.find(&identity), Found::Nothing) {
            return Ok(Made::Known);
        }
        let room = self.room(bounds.reserve)?;
        let held = Bounds {
            bytes: bounds.bytes.min(room),
            ..bounds
        };
        match pack(&dir, self.unnamed()?, held) {
            Ok(_) if Identity::of(&dir).as_ref() != Some(&identity) => {
                Err(Error::Changed(layer.display().to_string()))
            }
            Ok(image) => self.keep(&image, &identity, layer).map(|()| Made::New),
            Err(Error::Bytes(bytes)) if bytes < bounds.bytes => Err(Error::Full(bounds.reserve)),
            Err(error) if error.is_final() => {
                self.keep(&self.unnamed()?, &identity, layer)?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Bytes an image may take, with that many percent left free.
    fn room(&self, reserve: u8) -> Result<u64, Error> {
        let stat = rustix::fs::fstatvfs(&self.dir).map_err(|e| Error::Keep(e.into()))?;
        let reserved = stat.f_blocks / 100 * u64::from(reserve);
        let spare = stat.f_bavail.saturating_sub(reserved);
        match spare.saturating_mul(stat.f_frsize) {
            0 => Err(Error::Full(reserve)),
            bytes => Ok(bytes),
        }
    }

    fn unnamed(&self) -> Result<File, Error> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, ".", flags, Mode::from_raw_mode(0o400));
        file.map(File::from)
            .map_err(|error| Error::Keep(error.into()))
    }

    /// Gives a file its name, once all of it is on the disk.
    fn keep(&self, file: &File, identity: &Identity, layer: &Path) -> Result<(), Error> {
        let source = layer.as_os_str().as_encoded_bytes();
        // Where there are no such attributes, only disuse tells.
        let _ = rustix::fs::fsetxattr(file, SOURCE, source, XattrFlags::empty());
        file.sync_data().map_err(Error::Keep)?;
        let number = format!("/proc/self/fd/{}", file.as_raw_fd());
        let name = identity.to_string();
        match rustix::fs::linkat(CWD, number, &self.dir, name, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(Error::Keep(error.into())),
        }
    }

    /// Takes away what has no layer any more, and then what was not used for the
    /// longest time until no more than `limit` bytes are left.
    ///
    /// # Errors
    /// [`Error::Cache`].
    pub fn prune(&self, limit: u64) -> Result<(), Error> {
        let failed = |error: Errno| Error::Cache {
            path: self.path.clone(),
            source: error.into(),
        };
        let mut all = self.list().map_err(failed)?;
        all.sort_by_key(|kept| (kept.has_source, kept.used));
        let mut bytes: u64 = all.iter().map(|kept| kept.bytes).sum();
        for kept in all {
            if kept.has_source && bytes <= limit {
                break;
            }
            match rustix::fs::unlinkat(&self.dir, &kept.name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => bytes = bytes.saturating_sub(kept.bytes),
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    fn list(&self) -> rustix::io::Result<Vec<Kept>> {
        let mut all = Vec::new();
        for entry in Dir::read_from(&self.dir)? {
            let name = entry?.file_name().to_owned();
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let file = rustix::fs::openat(&self.dir, &name, flags, Mode::empty())?;
            let stat = rustix::fs::fstat(&file)?;
            all.push(Kept {
                bytes: u64::try_from(stat.st_blocks).unwrap_or_default() * 512,
                used: (stat.st_mtime, stat.st_mtime_nsec),
                has_source: has_source(&file, name.to_bytes()),
                name,
            });
        }
        Ok(all)
    }
}

/// Is the layer still there? Yes where nobody can say.
fn has_source(image: &OwnedFd, name: &[u8]) -> bool {
    let mut path = vec![0; PATH_LIMIT];
    let Ok(length) = rustix::fs::fgetxattr(image, SOURCE, &mut path) else {
        return true;
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(dir) = rustix::fs::open(&path[..length], flags, Mode::empty()) else {
        return false;
    };
    Identity::of(dir).is_some_and(|identity| identity.to_string().as_bytes() == name)
}

fn nanoseconds(value: i64) -> Timespec {
    Timespec {
        tv_sec: 0,
        tv_nsec: value,
    }
}

#[cfg(test)]
mod tests;

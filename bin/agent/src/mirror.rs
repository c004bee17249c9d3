//! Volumes the host exchanges as a whole, as the kubelet does with configMaps,
//! secrets and tokens: mirrored in the guest's memory, where a change is one of
//! this kernel's own files, so that whoever watches them is told (inotify).
//!
//! ```text
//!   KEY ──▶ ..data/KEY        ..data ──▶ ..2026_1/        ..2026_1/KEY
//! ```
//!
//! A new generation is a new directory and `..data` renamed over the old. The
//! mirror makes the same steps in the same order; kubelet's
//! pkg/volume/util/atomic_writer.go.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::container;

/// Where the mirrors are.
const MIRRORS: &str = "/run/sandbox/mirrors";

/// Bounds of one mirror: two generations, each twice what the host lets be
/// mirrored to begin with.
const TMPFS: &CStr = c"size=64m,nr_inodes=16384,mode=0755";

/// The link that says which generation holds.
const DATA: &CStr = c"..data";

/// What it is called until it is whole.
const DATA_NEXT: &CStr = c"..data_tmp";

/// Directories inside each other at most.
const DEPTH_LIMIT: usize = 32;

/// Why a volume is not mirrored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the mirror of the volume `{name}` cannot be made")]
    Make {
        name: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the volume `{name}` cannot be mirrored")]
    Copy {
        name: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the volume `{name}` cannot be mirrored")]
    Fill {
        name: String,
        #[source]
        source: container::Error,
    },
    #[error("the volume `{0}` is not laid out as one that is exchanged as a whole")]
    Layout(String),
}

/// One volume and its mirror.
#[derive(Debug)]
pub(crate) struct Mirror {
    name: String,
    from: OwnedFd,
    to: OwnedFd,
    path: PathBuf,
}

fn directory() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

impl Mirror {
    /// Makes an empty mirror of the directory `from`. `name` is a checked one.
    pub(crate) fn new(name: &str, from: &Path) -> Result<Self, Error> {
        let make = || {
            let path = Path::new(MIRRORS).join(name);
            std::fs::create_dir_all(&path)?;
            let mounted =
                rustix::mount::mount("tmpfs", &path, "tmpfs", MountFlags::NODEV, Some(TMPFS));
            if let Err(error) = mounted {
                let _ = std::fs::remove_dir(&path);
                return Err(error.into());
            }
            Self::between(name, from, path)
        };
        make().map_err(|source| Error::Make {
            name: name.to_owned(),
            source,
        })
    }

    fn between(name: &str, from: &Path, path: PathBuf) -> std::io::Result<Self> {
        let open = |path: &Path| rustix::fs::openat(CWD, path, directory(), Mode::empty());
        Ok(Self {
            name: name.to_owned(),
            from: open(from)?,
            to: open(&path)?,
            path,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the mirror what the volume is now.
    pub(crate) fn follow(&self) -> Result<(), Error> {
        let failed = |error: Errno| Error::Copy {
            name: self.name.clone(),
            source: error.into(),
        };
        let wanted = generation(self.from.as_fd()).map_err(failed)?;
        let wanted = wanted.ok_or_else(|| Error::Layout(self.name.clone()))?;
        let has = generation(self.to.as_fd()).map_err(failed)?;
        if has.as_ref() == Some(&wanted) {
            let (from, to) = self.both(&wanted).map_err(failed)?;
            adjust(&from, &to, DEPTH_LIMIT).map_err(failed)?;
        } else {
            self.renew(&wanted)?;
        }
        self.links().map_err(failed)?;
        self.forget(&wanted).map_err(failed)?;
        same_as(&self.from, self.to.as_fd(), c"").map_err(failed)
    }

    fn both(&self, name: &CStr) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        let open = |dir: &OwnedFd| rustix::fs::openat(dir, name, directory(), Mode::empty());
        Ok((open(&self.from)?, open(&self.to)?))
    }

    /// Copies a generation and lets it hold.
    fn renew(&self, wanted: &CStr) -> Result<(), Error> {
        let failed = |error: std::io::Error| Error::Copy {
            name: self.name.clone(),
            source: error,
        };
        // What a copy that failed has left.
        self.remove(wanted).map_err(failed)?;
        let mode = Mode::from_raw_mode(0o700);
        rustix::fs::mkdirat(&self.to, wanted, mode).map_err(|e| failed(e.into()))?;
        let (from, to) = self.both(wanted).map_err(|e| failed(e.into()))?;
        container::copy_tree(from.as_fd(), to.as_fd()).map_err(|source| Error::Fill {
            name: self.name.clone(),
            source,
        })?;
        let swap = || {
            same_as(&from, self.to.as_fd(), wanted)?;
            match rustix::fs::unlinkat(&self.to, DATA_NEXT, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
            rustix::fs::symlinkat(wanted, &self.to, DATA_NEXT)?;
            rustix::fs::renameat(&self.to, DATA_NEXT, &self.to, DATA)
        };
        swap().map_err(|error| failed(error.into()))
    }

    /// The names people use: links into `..data`.
    fn links(&self) -> rustix::io::Result<()> {
        let wanted = names(&self.from, |name| !is_inner(name))?;
        let has = names(&self.to, |name| !is_inner(name))?;
        for name in wanted.iter().filter(|name| !has.contains(name)) {
            // Anything but a link is none of the kubelet's.
            if let Ok(target) = rustix::fs::readlinkat(&self.from, name.as_c_str(), Vec::new()) {
                rustix::fs::symlinkat(target.as_c_str(), &self.to, name.as_c_str())?;
            }
        }
        for name in has.iter().filter(|name| !wanted.contains(name)) {
            rustix::fs::unlinkat(&self.to, name.as_c_str(), AtFlags::empty())?;
        }
        Ok(())
    }

    /// Removes generations that hold no more.
    fn forget(&self, wanted: &CStr) -> rustix::io::Result<()> {
        let old = |name: &CStr| is_inner(name) && name != DATA && name != wanted;
        for name in names(&self.to, old)? {
            self.remove(&name)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        }
        Ok(())
    }

    fn remove(&self, name: &CStr) -> std::io::Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let path = self.path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                std::fs::remove_file(&path)
            }
            other => other,
        }
    }
}

/// Names nobody but the kubelet uses.
fn is_inner(name: &CStr) -> bool {
    name.to_bytes().starts_with(b"..")
}

/// The directory `..data` points to, which has to be one beside it.
fn generation(dir: BorrowedFd<'_>) -> rustix::io::Result<Option<CString>> {
    let target = match rustix::fs::readlinkat(dir, DATA, Vec::new()) {
        Ok(target) => target,
        Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = target.to_bytes();
    let plain = bytes.len() > 2 && !bytes.contains(&b'/') && target.as_c_str() != DATA;
    Ok((is_inner(&target) && plain).then_some(target))
}

fn names(dir: &OwnedFd, wanted: impl Fn(&CStr) -> bool) -> rustix::io::Result<Vec<CString>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") && wanted(name) {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}

/// Gives `name` in `dir` (or `dir` itself) the owner and mode of `from`, when it
/// has others: an older kubelet sets them after the exchange.
fn same_as(from: &OwnedFd, dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    let wanted = rustix::fs::fstat(from)?;
    let own = if name.is_empty() {
        dir.try_clone_to_owned()
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?
    } else {
        rustix::fs::openat(dir, name, directory(), Mode::empty())?
    };
    let has = rustix::fs::fstat(&own)?;
    if (has.st_uid, has.st_gid) != (wanted.st_uid, wanted.st_gid) {
        let (uid, gid) = owner(&wanted);
        rustix::fs::fchown(&own, Some(uid), Some(gid))?;
    }
    if has.st_mode != wanted.st_mode {
        rustix::fs::fchmod(&own, mode(&wanted))?;
    }
    Ok(())
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

/// Gives what is in a generation the owners and modes of the original.
fn adjust(from: &OwnedFd, to: &OwnedFd, depth: usize) -> rustix::io::Result<()> {
    same_as(from, to.as_fd(), c"")?;
    for name in names(from, |_| true)? {
        let name = name.as_c_str();
        let stat = |dir: &OwnedFd| rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let (wanted, has) = match (stat(from), stat(to)) {
            (Ok(wanted), Ok(has)) => (wanted, has),
            // A generation is not added to.
            (_, Err(Errno::NOENT)) | (Err(Errno::NOENT), _) => continue,
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        if (has.st_uid, has.st_gid) != (wanted.st_uid, wanted.st_gid) {
            let (uid, gid) = owner(&wanted);
            rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        let kind = FileType::from_raw_mode(wanted.st_mode);
        if kind != FileType::Symlink && has.st_mode != wanted.st_mode {
            rustix::fs::chmodat(to, name, mode(&wanted), AtFlags::empty())?;
        }
        if kind == FileType::Directory && depth > 0 {
            let open = |dir: &OwnedFd| rustix::fs::openat(dir, name, directory(), Mode::empty());
            adjust(&open(from)?, &open(to)?, depth - 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    struct Volume {
        dir: tempfile::TempDir,
    }

    impl Volume {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for name in ["from", "to"] {
                std::fs::create_dir(dir.path().join(name)).unwrap();
            }
            Self { dir }
        }

        fn at(&self, path: &str) -> PathBuf {
            self.dir.path().join(path)
        }

        /// As the kubelet writes it.
        fn write(&self, generation: &str, files: &[(&str, &str)]) {
            let dir = self.at("from").join(generation);
            for (name, text) in files {
                let path = dir.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
                let top = name.split('/').next().unwrap();
                let _ = symlink(format!("..data/{top}"), self.at("from").join(top));
            }
            symlink(generation, self.at("from/..data_tmp")).unwrap();
            std::fs::rename(self.at("from/..data_tmp"), self.at("from/..data")).unwrap();
        }

        fn mirror(&self) -> Mirror {
            Mirror::between("n1", &self.at("from"), self.at("to")).unwrap()
        }

        fn read(&self, name: &str) -> Option<String> {
            std::fs::read_to_string(self.at("to").join(name)).ok()
        }
    }

    #[test]
    fn a_mirror_follows_from_generation_to_generation() {
        let volume = Volume::new();
        volume.write("..one", &[("key", "old"), ("gone", "x"), ("dir/deep", "1")]);
        let mirror = volume.mirror();
        mirror.follow().unwrap();
        assert_eq!(volume.read("key").as_deref(), Some("old"));
        assert_eq!(volume.read("dir/deep").as_deref(), Some("1"));

        volume.write("..two", &[("key", "new"), ("more", "y")]);
        std::fs::remove_dir_all(volume.at("from/..one")).unwrap();
        std::fs::remove_file(volume.at("from/gone")).unwrap();
        mirror.follow().unwrap();
        assert_eq!(volume.read("key").as_deref(), Some("new"));
        assert_eq!(volume.read("more").as_deref(), Some("y"));
        assert!(!volume.at("to/..one").exists());
        assert!(volume.at("to/gone").symlink_metadata().is_err());
    }

    #[test]
    fn modes_set_after_the_exchange_arrive_too() {
        let volume = Volume::new();
        volume.write("..one", &[("key", "old")]);
        let mirror = volume.mirror();
        mirror.follow().unwrap();
        let mode = |at: &str, mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(volume.at(at), mode).unwrap();
        };
        mode("from/..one/key", 0o440);
        mode("from/..one", 0o2755);
        mirror.follow().unwrap();
        let seen = |at: &str| volume.at(at).metadata().unwrap().mode() & 0o7777;
        assert_eq!(seen("to/..one/key"), 0o440);
        assert_eq!(seen("to/..one"), 0o2755);
    }

    #[test]
    fn a_copy_that_failed_is_made_again() {
        let volume = Volume::new();
        volume.write("..one", &[("key", "old")]);
        std::fs::create_dir(volume.at("to/..one")).unwrap();
        symlink("nothing", volume.at("to/..data_tmp")).unwrap();
        let mirror = volume.mirror();
        mirror.follow().unwrap();
        assert_eq!(volume.read("key").as_deref(), Some("old"));
    }

    #[test]
    fn a_link_out_of_the_volume_is_no_generation() {
        for target in ["..", "../x", "/etc", "plain", "..data", "../../etc"] {
            let volume = Volume::new();
            symlink(target, volume.at("from/..data")).unwrap();
            let error = volume.mirror().follow().unwrap_err();
            assert!(matches!(error, Error::Layout(_)), "{target}: {error}");
        }
        let volume = Volume::new();
        assert!(matches!(volume.mirror().follow(), Err(Error::Layout(_))));
    }
}

//! Paths of somebody else's root filesystem: openat2(2) with `RESOLVE_IN_ROOT`, and
//! then only descriptors, so that an image's symbolic links lead nowhere but into
//! itself (the class of CVE-2021-30465, CVE-2025-31133).

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Links followed from one mount point at most, as the kernel does.
const LINK_LIMIT: usize = 40;

/// An open root filesystem.
#[derive(Debug)]
pub struct Rooted {
    fd: OwnedFd,
}

impl AsFd for Rooted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Rooted {
    /// The root filesystem whose directory is open as `fd`.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Opens a path beneath the root.
    ///
    /// # Errors
    /// openat2(2).
    pub fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(self.look(path, flags)?)
    }

    fn look(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat2(
            &self.fd,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// Opens a directory, making it and its parents where they are missing.
    ///
    /// # Errors
    /// openat2(2), mkdirat(2).
    pub fn make_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.look(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {}
            other => return Ok(other?),
        }
        let mut so_far = PathBuf::from("/");
        for part in path.components() {
            let name = match part {
                Component::Normal(name) => name,
                // Of a link's target; the root is its own parent.
                Component::ParentDir => {
                    so_far.push("..");
                    continue;
                }
                _ => continue,
            };
            let parent = self.look(&so_far, OFlags::PATH | OFlags::DIRECTORY)?;
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            so_far.push(name);
        }
        self.open(path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Opens a mount point for a file, making it where it is missing.
    ///
    /// # Errors
    /// openat2(2), mkdirat(2); `EINVAL` for the root itself, `ELOOP` for a circle of
    /// links.
    pub fn make_file(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.look(path, OFlags::PATH) {
            Err(Errno::NOENT) => {}
            other => return Ok(other?),
        }
        let path = &self.behind_links(path)?;
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = self.make_dir(path.parent().unwrap_or(Path::new("/")))?;
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
        self.open(path, OFlags::PATH)
    }

    /// Where a path's last link points, when nothing is there yet: images
    /// ship `/etc/resolv.conf` as a link to a file of a running system. The
    /// result is resolved beneath the root like any other path.
    fn behind_links(&self, path: &Path) -> io::Result<PathBuf> {
        let mut path = path.to_owned();
        for _ in 0..LINK_LIMIT {
            let link = match self.look(&path, OFlags::PATH | OFlags::NOFOLLOW) {
                Err(Errno::NOENT) => return Ok(path),
                other => other?,
            };
            let target = match rustix::fs::readlinkat(&link, "", Vec::new()) {
                // Not a link.
                Err(Errno::NOENT | Errno::INVAL) => return Ok(path),
                other => other?,
            };
            let target = OsString::from_vec(target.into_bytes());
            path = path.parent().unwrap_or(Path::new("/")).join(target);
        }
        Err(Errno::LOOP.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_made_where_a_link_to_nothing_points() {
        let dir = std::env::temp_dir().join(format!("bulkhead-links-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("etc")).unwrap();
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(target, dir.join("etc").join(name)).unwrap();
        };
        link("../run/resolve/stub.conf", "resolv.conf");
        link("../../../../outside", "hosts");
        link("circle", "circle");
        let fd = rustix::fs::open(&dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let root = Rooted::new(fd);
        let made = ["/etc/resolv.conf", "/etc/hosts", "/etc/circle"]
            .map(|path| root.make_file(Path::new(path)).is_ok());
        let files = ["run/resolve/stub.conf", "outside"].map(|path| dir.join(path).is_file());
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(made, [true, true, false]);
        assert_eq!(files, [true, true]);
    }
}

//! The disk a sandbox writes on.

mod sparse;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use bulkhead_sys::jail::Jail;
use rustix::fs::{Mode, OFlags};

use crate::Error;
use crate::kept::Kept;

/// Makes a sparse file of `bytes` with an empty ext4 at `path`, which must not
/// exist. No journal: what is in it ends with the sandbox. An empty one of the
/// same size is copied where this user has made one since the host booted;
/// they share its UUID, which no two of them can meet over.
///
/// # Errors
/// [`Error::Writable`], [`Error::Formatter`], [`Error::Format`]; the file may
/// be there then.
pub fn make(path: &Path, bytes: u64) -> Result<OwnedFd, Error> {
    disk(Kept::open("disks").as_ref(), named(path), path, bytes)
}

/// The same without a name, in the file system of the directory `dir`: whoever
/// dies with it leaves nothing. `O_TMPFILE` of open(2); where a file system has
/// none, the name is there for a moment.
///
/// # Errors
/// As [`make`].
pub fn make_unnamed(dir: &Path, bytes: u64) -> Result<OwnedFd, Error> {
    disk(Kept::open("disks").as_ref(), unnamed(dir), dir, bytes)
}

fn named(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?)
}

fn unnamed(dir: &Path) -> io::Result<OwnedFd> {
    Ok(tempfile::tempfile_in(dir)?.into())
}

/// Makes a disk of an empty file, and names the place when there is none.
fn disk(
    kept: Option<&Kept>,
    file: io::Result<OwnedFd>,
    place: &Path,
    bytes: u64,
) -> Result<OwnedFd, Error> {
    let fd = file.map_err(|error| {
        let shown = format!("`{}`: {error}", place.display());
        Error::Writable(io::Error::new(error.kind(), shown))
    })?;
    rustix::fs::ftruncate(&fd, bytes).map_err(|error| Error::Writable(error.into()))?;
    // The name changes with what `format` makes.
    let name = format!("ext4-1-{bytes}");
    if let Some(empty) = kept.and_then(|kept| kept.get(&name))
        && fill(&fd, &empty, bytes).map_err(Error::Writable)?
    {
        return Ok(fd);
    }
    format(&fd)?;
    if let Some(kept) = kept {
        kept.put(&name, |copy| {
            rustix::fs::ftruncate(copy, bytes)?;
            sparse::copy(fd.as_fd(), copy, bytes)
        });
    }
    Ok(fd)
}

/// Copies an empty disk into `disk`, a hole of `bytes`. False when it is not what
/// was kept; `disk` is a hole then.
fn fill(disk: &OwnedFd, empty: &OwnedFd, bytes: u64) -> io::Result<bool> {
    if rustix::fs::fstat(empty)?.st_size.cast_unsigned() != bytes {
        return Ok(false);
    }
    let Err(error) = sparse::copy(empty.as_fd(), disk.as_fd(), bytes) else {
        return Ok(true);
    };
    tracing::debug!(%error, bytes, "an empty disk could not be copied");
    rustix::fs::ftruncate(disk, 0)?;
    rustix::fs::ftruncate(disk, bytes)?;
    Ok(false)
}

fn format(fd: &OwnedFd) -> Result<(), Error> {
    let mut jail = Jail::new();
    let copy = fd.as_fd().try_clone_to_owned().map_err(Error::Writable)?;
    let number = jail.inherit(copy).as_raw_fd();
    let mut command = Command::new("mke2fs");
    command
        .args(["-q", "-F", "-t", "ext4", "-m", "0"])
        .args(["-O", "^has_journal,^resize_inode"])
        .args(["-E", "lazy_itable_init=1,nodiscard"])
        .arg(format!("/proc/self/fd/{number}"))
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::null());
    let guard = jail.apply(&mut command);
    let output = command.output().map_err(Error::Formatter)?;
    drop(guard);
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(Error::Format(text.trim().replace('\n', "; ")))
}

#[cfg(test)]
mod tests;

//! The disk a sandbox writes on.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use bulkhead_sys::jail::Jail;
use rustix::fs::{Mode, OFlags};

use crate::Error;

/// Makes a sparse file of `bytes` with an empty ext4 at `path`, which must not
/// exist. No journal: what is in it ends with the sandbox.
///
/// # Errors
/// [`Error::Writable`], [`Error::Formatter`], [`Error::Format`]; the file may
/// be there then.
pub fn make(path: &Path, bytes: u64) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let open = || -> std::io::Result<OwnedFd> {
        let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?;
        rustix::fs::ftruncate(&fd, bytes)?;
        Ok(fd)
    };
    let fd = open().map_err(Error::Writable)?;
    format(&fd)?;
    Ok(fd)
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

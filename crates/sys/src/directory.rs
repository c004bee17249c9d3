//! News of a directory: fcntl(2), `F_NOTIFY`.
//!
//! inotify tells more, and costs an instance of which a user has 128 for all of
//! a host's programs. This costs the descriptor that is watched.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

// linux/fcntl.h.
const DN_CREATE: libc::c_long = 0x4;
const DN_DELETE: libc::c_long = 0x8;
const DN_RENAME: libc::c_long = 0x10;
const DN_ATTRIB: libc::c_long = 0x20;
const DN_MULTISHOT: libc::c_long = 0x8000_0000;

/// Has the kernel send this process `SIGIO` whenever a name in the directory
/// appears, goes or is exchanged, or the attributes of what it names change; as
/// long as the descriptor is open. The signal's action has to be set before: by
/// default it ends the process.
///
/// # Errors
/// `EBADF` for a descriptor opened by path only, `ENOTDIR`, `EACCES` where it
/// could not be read, `EINVAL` from a kernel without this.
pub fn notify(directory: impl AsFd) -> io::Result<()> {
    let events = DN_CREATE | DN_DELETE | DN_RENAME | DN_ATTRIB | DN_MULTISHOT;
    // SAFETY: a descriptor that is open for the call, and integers; the signal
    // it leads to has no memory of ours to touch.
    let result = unsafe { libc::fcntl(directory.as_fd().as_raw_fd(), libc::F_NOTIFY, events) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_watched_is_refused() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert_eq!(
            notify(&file).unwrap_err().kind(),
            io::ErrorKind::NotADirectory
        );
    }
}

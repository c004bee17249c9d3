//! Leaving the host's namespaces.

use std::io;

/// Moves this process into mount, network, IPC and UTS namespaces of its own;
/// with `user` also into a user namespace, in which it has every capability
/// until its ids are mapped. namespaces(7), user_namespaces(7).
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_ADMIN` and without `user`; `EINVAL` for `user` in
/// a process with several threads; `ENOSPC` when the host's limits are reached.
pub fn unshare(user: bool) -> io::Result<()> {
    let mut flags =
        libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if user {
        flags |= libc::CLONE_NEWUSER;
    }
    // SAFETY: unshare takes flags only. None of them splits what safe code
    // relies on: descriptors (CLONE_FILES) and memory stay shared.
    if unsafe { libc::unshare(flags) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

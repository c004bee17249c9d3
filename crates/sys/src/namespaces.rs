//! Leaving the host's namespaces.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

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

/// Are two open namespaces the same? They are when they are one inode. namespaces(7).
///
/// # Errors
///
/// fstat(2).
pub fn are_same(one: impl AsFd, other: impl AsFd) -> io::Result<bool> {
    let (one, other) = (rustix::fs::fstat(one)?, rustix::fs::fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// Moves the calling thread, and it alone, into a network namespace of its own, which is
/// empty. unshare(2).
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_ADMIN`; `ENOSPC` when the host's limits are reached.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: unshare takes flags only; no memory or descriptor of safe code is split.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes the calling thread's next child the first process of a process namespace of
/// its own, with whose end everything in it ends. The thread can start no further
/// threads from then on. pid_namespaces(7), unshare(2).
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_ADMIN`; `ENOSPC` when the host's limits are reached.
pub fn next_child_alone() -> io::Result<()> {
    // SAFETY: unshare takes flags only; this one changes nothing of this process but
    // what its children are born into.
    if unsafe { libc::unshare(libc::CLONE_NEWPID) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Moves the calling thread, and it alone, into a mount namespace, opened from
/// `/proc/PID/ns/mnt`; its root and working directory become that namespace's.
/// setns(2).
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_ADMIN`; `EINVAL` for what is no mount namespace.
pub fn enter_mounts(namespace: impl AsFd) -> io::Result<()> {
    // A thread that shares its root with others cannot change it.
    // SAFETY: unshare takes flags only; CLONE_FS gives this thread a root,
    // working directory and umask of its own, which no memory depends on.
    if unsafe { libc::unshare(libc::CLONE_FS) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: setns takes an open descriptor and a flag.
    if unsafe { libc::setns(namespace.as_fd().as_raw_fd(), libc::CLONE_NEWNS) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

//! What rustix does not know of mounts.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::mount::MoveMountFlags;

/// Mounts a detached tree on an open place. move_mount(2).
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`; `ENOTDIR` for a directory on a file, or the reverse.
pub fn attach(tree: impl AsFd, place: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, "", place, "", flags)?)
}

/// Makes the mounts of a tree, opened with `open_tree`, read-only or writable;
/// with `recursive` those below it too. mount_setattr(2).
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`, or for making a locked mount writable;
/// `EINVAL` for a descriptor that is no mount's root.
pub fn set_read_only(tree: impl AsFd, read_only: bool, recursive: bool) -> io::Result<()> {
    let bit = libc::MOUNT_ATTR_RDONLY;
    let attributes = libc::mount_attr {
        attr_set: if read_only { bit } else { 0 },
        attr_clr: if read_only { 0 } else { bit },
        propagation: 0,
        userns_fd: 0,
    };
    set(tree.as_fd(), &attributes, recursive)
}

/// Which mounts that are made later below a tree's origin appear in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later {
    /// None: mount_namespaces(7), `MS_PRIVATE`.
    Nothing,
    /// Those of the origin, where that is shared; none in the other direction. `MS_SLAVE`.
    OfTheOrigin,
}

/// Says what appears in a tree that was copied with `open_tree`, and below it.
/// mount_setattr(2).
///
/// # Errors
/// As [`set_read_only`].
pub fn set_later(tree: impl AsFd, later: Later) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: 0,
        attr_clr: 0,
        propagation: match later {
            Later::Nothing => libc::MS_PRIVATE,
            Later::OfTheOrigin => libc::MS_SLAVE,
        },
        userns_fd: 0,
    };
    set(tree.as_fd(), &attributes, true)
}

fn set(tree: BorrowedFd<'_>, attributes: &libc::mount_attr, recursive: bool) -> io::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the descriptor is open for the call, the path is an empty
    // C string, and `attributes` is live and of the size that is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

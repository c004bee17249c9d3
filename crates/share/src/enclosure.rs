//! Closing this process in: afterwards its whole world is a small tmpfs with
//! the shared tree in it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use bulkhead_sys::mounts::{self, Later};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags,
    UnmountFlags,
};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::order::{FileIdentity, Tree};

/// Where the shared tree is in the enclosure.
pub(crate) const SHARED_DIR: &str = "/share";

/// The privileges a server of many owners' files needs, and no more: no
/// `CAP_MKNOD` (a guest makes no device nodes on the host), no
/// `CAP_DAC_READ_SEARCH` (it opens any file of a file system by handle). With
/// `CAP_SETFCAP` programs are given capabilities, as packages want theirs; who can
/// make them set-user-ID gains nothing by it.
const PRIVILEGES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID);

/// What is left of the host: `/proc/self/fd`, by which a file is opened again
/// with other flags, as a mount of its own that `..` does not leave.
#[derive(Debug)]
pub(crate) struct Enclosure {
    pub(crate) proc_self_fd: File,
}

/// Encloses this process with `dir`, one file of it, or an empty directory. It has to be
/// single-threaded. Without root, a user namespace maps the caller to root:
/// every file then belongs to the caller.
pub(crate) fn enclose(dir: &OwnedFd, what: &Tree, later: Later) -> io::Result<Enclosure> {
    // The working directory moves to the new mount namespace; a descriptor
    // would stay behind, and mounts of another namespace cannot be cloned.
    rustix::process::fchdir(dir)?;
    unshare()?;
    let down = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", down)?;
    let tree = clone_tree(what)?;
    mounts::set_later(&tree, later)?;
    let proc_self_fd = open_tree("/proc/self/fd")?;
    let cage = tmpfs("64k", MountAttrFlags::empty())?;
    mounts::attach(
        &cage,
        &rustix::fs::openat(CWD, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?,
    )?;
    rustix::process::fchdir(&cage)?;
    attach(&tree, matches!(what, Tree::File(_)))?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount_remount("/", flags | MountFlags::NOEXEC, "")?;
    Ok(Enclosure {
        proc_self_fd: proc_self_fd.into(),
    })
}

/// Gives up every privilege that serving files does not need, for good.
pub(crate) fn drop_privileges() -> io::Result<()> {
    for capability in CapabilitySet::all().iter() {
        // Fails for numbers this kernel does not know.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: PRIVILEGES,
            permitted: PRIVILEGES,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}

fn unshare() -> io::Result<()> {
    let uid = rustix::process::geteuid();
    let gid = rustix::process::getegid();
    if uid.is_root() {
        return bulkhead_sys::namespaces::unshare(false);
    }
    bulkhead_sys::namespaces::unshare(true)?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw()))?;
    std::fs::write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw()))
}

fn clone_tree(what: &Tree) -> io::Result<OwnedFd> {
    let file = match what {
        Tree::Directory => return open_tree("."),
        // Read-only for this process; who fills it has a mount of its own.
        Tree::Pod => return tmpfs("1m", MountAttrFlags::MOUNT_ATTR_RDONLY),
        Tree::File(file) => file,
    };
    let name = Path::new(&file.name);
    let plain = name.file_name() == Some(&file.name);
    if !plain {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let tree = open_tree(name)?;
    if !file.fits(&rustix::fs::fstat(&tree)?) {
        return Err(io::Error::other("the file was replaced meanwhile"));
    }
    Ok(tree)
}

/// A copy of the mounts at and below `path`, attached nowhere. open_tree(2).
fn open_tree(path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    Ok(rustix::mount::open_tree(CWD, path.as_ref(), flags)?)
}

/// An empty tmpfs, attached nowhere.
fn tmpfs(size: &str, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "size", size)?;
    rustix::mount::fsconfig_set_string(&context, "mode", "0755")?;
    rustix::mount::fsconfig_create(&context)?;
    Ok(rustix::mount::fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// Puts the tree into the cage, which is the working directory.
fn attach(tree: &OwnedFd, is_file: bool) -> io::Result<()> {
    let dir = SHARED_DIR.trim_start_matches('/');
    rustix::fs::mkdir(dir, Mode::from_raw_mode(0o755))?;
    let mut place = dir.to_owned();
    if is_file {
        place = format!("{dir}/{}", FileIdentity::SHARED_NAME);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::open(&place, flags, Mode::from_raw_mode(0o644))?;
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    mounts::attach(tree, rustix::fs::open(&place, flags, Mode::empty())?)
}

//! Where the process that stands for a container is: in the container's network, and
//! among its files.
//!
//! Programs of the host join a container's namespaces by its process: `podman cp` its
//! files, a second container its network. Left where it was started, that process would
//! lead them to the host.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bulkhead_sys::rooted::Rooted;
use bulkhead_sys::{mounts, namespaces};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use super::bundle;

/// Takes this thread, and whatever the kernel tells of its process, there.
///
/// `told` is the process the shim has told for the container: one whose spec names no
/// network may have got one by its hooks.
pub(super) fn enter(spec: &Value, told: u32) -> io::Result<()> {
    let made = format!("/proc/{told}/ns/net");
    let network = open(network(spec).unwrap_or(&made))?;
    let own = open("/proc/self/ns/net")?;
    let network = (!namespaces::are_same(&network, &own)?).then_some(network);
    namespaces::unshare(false)?;
    if let Some(network) = network {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    let root = root(spec)?;
    for mount in spec["mounts"].as_array().into_iter().flatten() {
        attach(&root, mount);
    }
    pivot(&root)
}

fn open(path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn network(spec: &Value) -> Option<&str> {
    bundle::path(bundle::namespace(spec, "network")?)
}

fn clone(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(rustix::mount::open_tree(rustix::fs::CWD, path, flags)?)
}

/// The root filesystem, a mount of its own.
fn root(spec: &Value) -> io::Result<Rooted> {
    let path = Path::new(spec["root"]["path"].as_str().unwrap_or_default());
    let tree = clone(path)?;
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(tree.as_fd(), "", rustix::fs::CWD, path, empty)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty())?;
    Ok(Rooted::new(opened))
}

/// Puts a volume where the container has it. Where that is not possible the container
/// has something else there too: a file system of the guest's.
fn attach(root: &Rooted, mount: &Value) {
    let words = mount["options"].as_array().into_iter().flatten();
    let bind =
        mount["type"] == "bind" || words.clone().any(|word| word == "bind" || word == "rbind");
    let (Some(source), Some(target)) = (mount["source"].as_str(), mount["destination"].as_str())
    else {
        return;
    };
    if bind {
        let _ = attach_at(root, Path::new(source), Path::new(target));
    }
}

fn attach_at(root: &Rooted, source: &Path, target: &Path) -> io::Result<()> {
    let tree = clone(source)?;
    let kind = |fd: &OwnedFd| {
        let stat = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)?;
        rustix::io::Result::Ok(FileType::from_raw_mode(stat.st_mode))
    };
    let place = root.open(target, OFlags::PATH)?;
    let shared = [FileType::Directory, FileType::RegularFile];
    let kind_of_source = kind(&tree)?;
    if kind_of_source != kind(&place)? || !shared.contains(&kind_of_source) {
        return Ok(());
    }
    mounts::attach(tree, place)
}

/// pivot_root(2) with both on the same place needs no directory for the old root.
fn pivot(root: &Rooted) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

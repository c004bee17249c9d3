//! `emptyDir` with `medium: Memory`: a tmpfs the kubelet mounted on the host for
//! the pod, to be had in the guest's memory instead.
//!
//! Nothing but what the kernel says decides. A mount source is such a volume,
//! or a part of it, when
//!
//! - it is a directory of a tmpfs, and what it was opened through is the root
//!   of a mount;
//! - the same tmpfs is mounted as a whole on a directory
//!   `pods/UID/volumes/kubernetes.io~empty-dir/NAME`;
//! - `UID` is this pod's.
//!
//! Secrets and tokens are tmpfs too, under other names; they stay shared, as
//! does every tmpfs that is a hostPath.

use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use bulkhead_protocol::name;
use bulkhead_sandbox::{Directory, MemoryVolume};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, Stat};

use crate::failure::{Failure, Outcome};
use crate::mountinfo::{self, Mount};

/// The type of a tmpfs: statfs(2).
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// The directory of all such volumes of a pod; kubelet's pkg/volume/emptydir.
const PLUGIN: &str = "kubernetes.io~empty-dir";

/// Directories inside each other at most.
const DEPTH_LIMIT: usize = 64;

/// The pod's side of it.
pub(crate) struct Owner<'a> {
    /// As the kubelet knows it; empty: nobody said.
    pub(crate) uid: &'a str,
    /// What its containers share, bytes.
    pub(crate) room: u64,
}

/// What the guest is to make for the mount number `mount` of a spec, counted
/// from 1; `None`: what was opened is no such volume.
pub(crate) fn volume(
    opened: &OwnedFd,
    owner: &Owner<'_>,
    mount: u32,
) -> Outcome<Option<MemoryVolume>> {
    let failed = |error: std::io::Error| Failure::from_error(&error);
    if owner.uid.is_empty() || !mountinfo::is_root(opened, TMPFS_MAGIC).map_err(failed)? {
        return Ok(None);
    }
    let stat = rustix::fs::fstat(opened).map_err(|error| failed(error.into()))?;
    let id = mountinfo::id_of(opened).map_err(failed)?;
    let mounts = mountinfo::read().map_err(failed)?;
    let Some((own, whole)) = find(&mounts, id, owner.uid) else {
        return Ok(None);
    };
    let root = open(&whole.point).map_err(failed)?;
    let top = rustix::fs::fstat(&root).map_err(|error| failed(error.into()))?;
    if top.st_dev != stat.st_dev {
        // Unmounted or covered meanwhile.
        return Ok(None);
    }
    let name = whole.point.file_name().and_then(|name| name.to_str());
    let name = name.unwrap_or_default();
    name::check(name).map_err(|error| Failure::invalid(error.to_string()))?;
    Ok(Some(MemoryVolume {
        root: Some(directory(name, &top)).into(),
        size_bytes: size(&root, owner.room).map_err(failed)?,
        path: parts(&root, &own.root)?,
        mount,
        ..Default::default()
    }))
}

/// The mount with this id, and that of the whole volume it is of.
fn find<'a>(mounts: &'a [Mount], id: u64, uid: &str) -> Option<(&'a Mount, &'a Mount)> {
    let own = mounts.iter().find(|own| own.id == id)?;
    let whole = mounts.iter().find(|other| {
        let same = other.device == own.device && other.kind == "tmpfs";
        same && other.root == Path::new("/") && is_place(&other.point, uid)
    })?;
    Some((own, whole))
}

/// `…/pods/UID/volumes/kubernetes.io~empty-dir/NAME`.
fn is_place(point: &Path, uid: &str) -> bool {
    let mut names = point.iter().rev().skip(1);
    [PLUGIN, "volumes", uid, "pods"]
        .iter()
        .all(|name| names.next().is_some_and(|own| own == *name))
}

fn open(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

fn directory(name: &str, stat: &Stat) -> Directory {
    Directory {
        name: name.to_owned(),
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o7777,
        ..Default::default()
    }
}

/// As large as on the host, and no larger than what the containers have.
fn size(root: &OwnedFd, room: u64) -> std::io::Result<u64> {
    let stat = rustix::fs::fstatvfs(root)?;
    let own = stat.f_blocks.saturating_mul(stat.f_frsize);
    // A tmpfs without a limit says zero.
    Ok(if own == 0 { room } else { own.min(room) })
}

/// The directories from the volume's root to the part that is mounted, as they
/// are on the host, where the kubelet has made them.
fn parts(root: &OwnedFd, path: &Path) -> Outcome<Vec<Directory>> {
    let refuse = |why: &str| {
        Failure::invalid(format!(
            "the part `{}` of a volume in memory: {why}",
            path.display()
        ))
    };
    let mut so_far = std::path::PathBuf::new();
    let mut found = Vec::new();
    for part in path.components() {
        let name = match part {
            Component::RootDir => continue,
            Component::Normal(name) => name,
            _ => return Err(refuse("it leads out of it")),
        };
        if found.len() == DEPTH_LIMIT {
            return Err(refuse("it is too deep"));
        }
        let text = name
            .to_str()
            .ok_or_else(|| refuse("its name is not UTF-8"))?;
        so_far.push(name);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let stat = rustix::fs::openat2(root, &so_far, flags, Mode::empty(), beneath)
            .and_then(rustix::fs::fstat)
            .map_err(|error| refuse(&format!("it cannot be opened: {error}")))?;
        found.push(directory(text, &stat));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: u64, device: &str, root: &str, point: &str) -> Mount {
        Mount {
            id,
            device: device.to_owned(),
            root: root.into(),
            point: point.into(),
            kind: "tmpfs".to_owned(),
            source: "tmpfs".into(),
        }
    }

    #[test]
    fn only_this_pods_empty_dirs_are_found() {
        let volumes = "/var/lib/kubelet/pods/u1/volumes";
        let mounts = [
            mount(
                1,
                "0:7",
                "/",
                &format!("{volumes}/kubernetes.io~empty-dir/cache"),
            ),
            mount(
                2,
                "0:7",
                "/sub",
                "/var/lib/kubelet/pods/u1/volume-subpaths/cache/app/0",
            ),
            mount(
                3,
                "0:8",
                "/",
                &format!("{volumes}/kubernetes.io~secret/token"),
            ),
            mount(
                4,
                "0:9",
                "/part",
                &format!("{volumes}/kubernetes.io~empty-dir/odd"),
            ),
            mount(5, "0:10", "/", "/dev/shm"),
        ];
        let found = |id, uid| find(&mounts, id, uid).map(|(own, whole)| (own.id, whole.id));
        assert_eq!(found(1, "u1"), Some((1, 1)));
        assert_eq!(found(2, "u1"), Some((2, 1)));
        assert_eq!(found(1, "u2"), None);
        assert_eq!(found(3, "u1"), None);
        assert_eq!(found(4, "u1"), None);
        assert_eq!(found(5, "u1"), None);
        assert_eq!(found(6, "u1"), None);
    }

    #[test]
    fn the_layout_is_the_kubelets_whole() {
        let place = |path: &str| is_place(Path::new(path), "u1");
        assert!(place("/k/pods/u1/volumes/kubernetes.io~empty-dir/a"));
        assert!(!place("/k/pods/u1/volumes/kubernetes.io~empty-dir/a/b"));
        assert!(!place("/k/u1/volumes/kubernetes.io~empty-dir/a"));
        assert!(!place("/kubernetes.io~empty-dir/a"));
        assert!(!place("/"));
    }

    #[test]
    fn what_is_no_tmpfs_or_nobodys_stays_shared() {
        let owner = |uid| Owner { uid, room: 1 << 20 };
        let opened = open(Path::new("/proc")).unwrap();
        assert!(volume(&opened, &owner("u1"), 1).unwrap().is_none());
        let opened = open(Path::new("/dev")).unwrap();
        assert!(volume(&opened, &owner(""), 1).unwrap().is_none());
        assert!(volume(&opened, &owner("u1"), 1).unwrap().is_none());
    }

    #[test]
    fn a_part_has_the_modes_of_the_host_and_no_links() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let mode = std::fs::Permissions::from_mode(0o2770);
        std::fs::set_permissions(dir.path().join("a/b"), mode).unwrap();
        symlink("a", dir.path().join("link")).unwrap();
        let root = open(dir.path()).unwrap();
        let found = parts(&root, Path::new("/a/b")).unwrap();
        assert_eq!(found[1].name, "b");
        assert_eq!(found[1].mode, 0o2770);
        assert!(parts(&root, Path::new("/")).unwrap().is_empty());
        for wrong in ["/link", "/a/../a", "/gone", "/a//deleted"] {
            assert!(parts(&root, Path::new(wrong)).is_err(), "{wrong}");
        }
    }
}

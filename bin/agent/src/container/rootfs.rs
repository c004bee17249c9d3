//! The container's view of files: mounts beneath its root filesystem, then
//! the root itself. Runs in the child.
//!
//! Every target is resolved beneath the root ([`Rooted`]) and then only used by
//! descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use bulkhead_sys::mounts;
use bulkhead_sys::rooted::Rooted;
use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use super::error::{Error, Result, Tried};
use super::mount_options::{self, Attributes, Options};
use super::{copyup, devices, syscalls};

/// Mounts of one container at most.
const MOUNT_LIMIT: usize = 1024;

/// An open root filesystem.
pub(super) struct Root {
    files: Rooted,
}

impl Root {
    /// Makes the mount namespace private and the rootfs a mount of its own.
    pub(super) fn enter(path: &Path) -> Result<Self> {
        let propagation = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", propagation)
            .tried(|| "make the mount namespace private".to_owned())?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = rustix::mount::open_tree(rustix::fs::CWD, path, flags)
            .tried(|| "open the root filesystem".to_owned())?;
        rustix::mount::move_mount(
            tree.as_fd(),
            "",
            rustix::fs::CWD,
            path,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .tried(|| "mount the root filesystem on itself".to_owned())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .tried(|| "open the root filesystem".to_owned())?;
        Ok(Self {
            files: Rooted::new(fd),
        })
    }

    /// Opens a path beneath the root.
    pub(super) fn open(&self, path: &Path, flags: OFlags) -> std::io::Result<OwnedFd> {
        self.files.open(path, flags)
    }

    /// Opens a directory, making it and its parents where they are missing.
    pub(super) fn make_dir(&self, path: &Path) -> Result<OwnedFd> {
        let what = || format!("make the directory `{}`", path.display());
        self.files.make_dir(path).tried(what)
    }

    /// Opens a mount point for a file, making it where it is missing.
    fn make_file(&self, path: &Path) -> Result<OwnedFd> {
        let what = || format!("make the mount point `{}`", path.display());
        self.files.make_file(path).tried(what)
    }

    /// Makes every mount of the spec, in order.
    pub(super) fn mount_all(&self, spec: &Spec) -> Result<()> {
        let mounts = spec.mounts().clone().unwrap_or_default();
        if mounts.len() > MOUNT_LIMIT {
            return Err(Error::invalid(format!(
                "a container has more than {MOUNT_LIMIT} mounts"
            )));
        }
        let mut devices = false;
        // A tmpfs, a /dev most of all, is filled before it is only read: with nodes, and
        // with the places of what is mounted in it.
        let mut only_read = Vec::new();
        for mount in &mounts {
            only_read.extend(self.mount(mount)?);
            // A /dev of the container's own wants its nodes before anything
            // is mounted below it.
            let own = mount.typ().as_deref() == Some("tmpfs");
            if own && mount.destination() == Path::new("/dev") {
                devices::make(self, spec)?;
                devices = true;
            }
        }
        if !devices {
            devices::make_missing(self, spec)?;
        }
        for tree in only_read {
            syscalls::mount_setattr(tree.as_fd(), mount_options::RDONLY, 0, 0, false)
                .tried(|| "make a tmpfs read-only".to_owned())?;
        }
        Ok(())
    }

    /// Makes one, and answers it where it has to be made read-only in the end.
    fn mount(&self, mount: &Mount) -> Result<Option<OwnedFd>> {
        let target = mount.destination();
        let mut options = mount_options::parse(mount.options().as_deref().unwrap_or(&[]))?;
        if options.idmap.is_some() {
            return Err(Error::invalid(format!(
                "the mount on `{}` asks for mapped ids, which is not supported yet",
                target.display()
            )));
        }
        let kind = mount.typ().as_deref().unwrap_or("none");
        let is_bind = options.bind.is_some() || kind == "bind";
        let only_read = !is_bind && kind == "tmpfs" && options.attributes.take_read_only();
        let (tree, place) = if is_bind {
            self.bind(mount, &options)?
        } else {
            self.filesystem(kind, mount, &options)?
        };
        let what = || format!("mount on `{}`", target.display());
        // A fresh mount has its attributes from the start; a bind inherits.
        if is_bind {
            set(tree.as_fd(), options.attributes, false).tried(what)?;
        }
        set(tree.as_fd(), options.recursive, true).tried(what)?;
        mounts::attach(&tree, &place).tried(what)?;
        for wanted in &options.propagation {
            syscalls::mount_setattr(tree.as_fd(), 0, 0, wanted.kind, wanted.recursive)
                .tried(what)?;
        }
        Ok(only_read.then_some(tree))
    }

    fn bind(&self, mount: &Mount, options: &Options) -> Result<(OwnedFd, OwnedFd)> {
        let target = mount.destination();
        let source = mount
            .source()
            .as_ref()
            .ok_or_else(|| Error::invalid(format!("`{}` has no source", target.display())))?;
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if options.bind == Some(true) {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        let tree = rustix::mount::open_tree(rustix::fs::CWD, source, flags).tried(|| {
            format!(
                "open `{}`, the source of the mount on `{}`",
                source.display(),
                target.display()
            )
        })?;
        let stat = rustix::fs::statat(&tree, "", AtFlags::EMPTY_PATH)
            .tried(|| format!("look at the source of the mount on `{}`", target.display()))?;
        let place = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            self.make_dir(target)?
        } else {
            self.make_file(target)?
        };
        Ok((tree, place))
    }

    fn filesystem(
        &self,
        kind: &str,
        mount: &Mount,
        options: &Options,
    ) -> Result<(OwnedFd, OwnedFd)> {
        let target = mount.destination();
        // The guest has cgroup v2 only; `cgroup` is what specs call both.
        let kind = if kind == "cgroup" { "cgroup2" } else { kind };
        let known = [
            "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup2", "overlay", "ramfs",
        ];
        if !known.contains(&kind) {
            return Err(Error::invalid(format!(
                "the mount on `{}` is of the type `{kind}`, which a container cannot have; \
                 one of {}",
                target.display(),
                known.join(", ")
            )));
        }
        let place = self.make_dir(target)?;
        let what = || format!("mount a {kind} for `{}`", target.display());
        let context = match rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC) {
            // Users of a namespace of their own have none of a network that is not: they
            // see the guest's, where nothing is theirs to change.
            Err(Errno::PERM) if kind == "sysfs" => {
                let tree = clone_tree(Path::new("/sys"), true).tried(what)?;
                set(tree.as_fd(), options.attributes.restrictions(), true).tried(what)?;
                return Ok((tree, place));
            }
            other => other.tried(what)?,
        };
        if let Some(source) = mount.source() {
            let _ = rustix::mount::fsconfig_set_string(context.as_fd(), "source", source);
        }
        for (key, value) in &options.data {
            let set = match value {
                Some(value) => rustix::mount::fsconfig_set_string(
                    context.as_fd(),
                    key.as_str(),
                    value.as_str(),
                ),
                None => rustix::mount::fsconfig_set_flag(context.as_fd(), key.as_str()),
            };
            set.tried(|| {
                format!(
                    "set the option `{key}` of the mount on `{}`",
                    target.display()
                )
            })?;
        }
        rustix::mount::fsconfig_create(context.as_fd()).tried(what)?;
        let attributes = MountAttrFlags::from_bits_retain(options.attributes.set as _);
        let tree =
            rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
                .tried(what)?;
        if options.copy_up && matches!(kind, "tmpfs" | "ramfs") {
            copyup::fill(place.as_fd(), tree.as_fd())?;
        }
        Ok((tree, place))
    }

    /// Covers paths that tell too much: files with /dev/null, directories
    /// with an empty tmpfs.
    pub(super) fn mask(&self, path: &Path) -> Result<()> {
        let place = match self.open(path, OFlags::PATH) {
            Err(error) if is_missing(&error) => return Ok(()),
            other => other.tried(|| format!("mask `{}`", path.display()))?,
        };
        let stat = rustix::fs::statat(&place, "", AtFlags::EMPTY_PATH)
            .tried(|| format!("mask `{}`", path.display()))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let empty = fresh_tmpfs().tried(|| format!("mask `{}`", path.display()))?;
            return attach(empty.as_fd(), place.as_fd(), path);
        }
        let null = clone_tree(Path::new("/dev/null"), false)
            .tried(|| format!("mask `{}`", path.display()))?;
        attach(null.as_fd(), place.as_fd(), path)
    }

    /// Makes what is at a path read-only.
    pub(super) fn make_read_only(&self, path: &Path) -> Result<()> {
        let what = || format!("make `{}` read-only", path.display());
        let place = match self.open(path, OFlags::PATH) {
            Err(error) if is_missing(&error) => return Ok(()),
            other => other.tried(what)?,
        };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = rustix::mount::open_tree(place.as_fd(), "", flags).tried(what)?;
        syscalls::mount_setattr(tree.as_fd(), mount_options::RDONLY, 0, 0, true).tried(what)?;
        attach(tree.as_fd(), place.as_fd(), path)
    }

    /// Makes the root filesystem the root, and the old one unreachable.
    /// pivot_root(2) with both on the same place needs no directory to put
    /// the old root.
    pub(super) fn pivot(&self, propagation: Option<&str>, read_only: bool) -> Result<()> {
        rustix::process::fchdir(&self.files).tried(|| "enter the root filesystem".to_owned())?;
        rustix::process::pivot_root(".", ".").tried(|| "change the root".to_owned())?;
        rustix::mount::unmount(".", UnmountFlags::DETACH)
            .tried(|| "let go of the old root".to_owned())?;
        rustix::process::chdir("/").tried(|| "enter the new root".to_owned())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open("/", flags, Mode::empty()).tried(|| "open the new root".to_owned())?;
        if let Some(text) = propagation.filter(|text| !text.is_empty()) {
            let wanted = mount_options::propagation(text)
                .ok_or_else(|| Error::invalid(format!("`{text}` is no mount propagation")))?;
            syscalls::mount_setattr(root.as_fd(), 0, 0, wanted.kind, wanted.recursive)
                .tried(|| format!("make the root {text}"))?;
        }
        if read_only {
            syscalls::mount_setattr(root.as_fd(), mount_options::RDONLY, 0, 0, false)
                .tried(|| "make the root read-only".to_owned())?;
        }
        Ok(())
    }
}

fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
}

fn set(tree: BorrowedFd<'_>, attributes: Attributes, recursive: bool) -> std::io::Result<()> {
    if attributes.is_empty() {
        return Ok(());
    }
    syscalls::mount_setattr(tree, attributes.set, attributes.clear, 0, recursive)
}

/// A detached copy of what is mounted at a path of the agent's.
pub(super) fn clone_tree(path: &Path, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(rustix::fs::CWD, path, flags)
}

fn fresh_tmpfs() -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "mode", "0755")?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
}

/// Mounts a detached tree on an open place.
pub(super) fn attach(tree: BorrowedFd<'_>, place: BorrowedFd<'_>, path: &Path) -> Result<()> {
    mounts::attach(tree, place).tried(|| format!("mount on `{}`", path.display()))
}

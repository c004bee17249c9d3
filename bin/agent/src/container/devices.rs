//! Device nodes of the container.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDeviceType, Spec};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::device_filter;
use super::error::{Error, Result, Tried};
use super::rootfs::{self, Root};
use crate::block;

/// Name, major, minor: what every container has. OCI runtime spec,
/// config-linux, "Default Devices".
const DEFAULT: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Nodes of the guest a privileged container gets at most.
const GUEST_NODES: usize = 4096;

/// Makes the nodes and links in a fresh /dev.
pub(super) fn make(root: &Root, spec: &Spec) -> Result<()> {
    let dev = root.make_dir(Path::new("/dev"))?;
    for (name, major, minor) in DEFAULT {
        node(
            &dev,
            name.as_ref(),
            FileType::CharacterDevice,
            0o666,
            (major, minor),
        )?;
    }
    for (name, target) in LINKS {
        match rustix::fs::symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).tried(|| format!("make the link `/dev/{name}`")),
        }
    }
    if device_filter::allows_everything(spec) {
        guest_nodes(&dev)?;
    }
    asked(root, spec)
}

/// Without a fresh /dev only what the spec lists is made.
pub(super) fn make_missing(root: &Root, spec: &Spec) -> Result<()> {
    asked(root, spec)
}

fn asked(root: &Root, spec: &Spec) -> Result<()> {
    let devices = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.devices().clone());
    for device in devices.unwrap_or_default() {
        let path = device.path();
        let parent = root.make_dir(path.parent().unwrap_or(Path::new("/")))?;
        let name = path
            .file_name()
            .ok_or_else(|| Error::invalid(format!("no device can be at `{}`", path.display())))?;
        let kind = match device.typ() {
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::P => FileType::Fifo,
            _ => FileType::CharacterDevice,
        };
        let number = |value: i64| u32::try_from(value).unwrap_or(0);
        let numbers = (number(device.major()), number(device.minor()));
        node(
            &parent,
            name,
            kind,
            device.file_mode().unwrap_or(0o666),
            numbers,
        )?;
        let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
        rustix::fs::chownat(
            &parent,
            name,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .tried(|| format!("own the device `{}`", path.display()))?;
    }
    Ok(())
}

fn node(
    dir: &OwnedFd,
    name: &std::ffi::OsStr,
    kind: FileType,
    mode: u32,
    (major, minor): (u32, u32),
) -> Result<()> {
    let what = || format!("make the device `{}`", Path::new(name).display());
    let device = rustix::fs::makedev(major, minor);
    let mode = Mode::from_raw_mode(mode & 0o7777);
    match rustix::fs::mknodat(dir, name, kind, mode, device) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        // A user namespace may not make nodes: the guest's own is bound.
        Err(Errno::PERM) => return bind(dir, name, kind, (major, minor)),
        Err(error) => return Err(error).tried(what),
    }
    // The umask took bits away.
    rustix::fs::chmodat(dir, name, mode, AtFlags::empty()).tried(what)
}

fn bind(
    dir: &OwnedFd,
    name: &std::ffi::OsStr,
    kind: FileType,
    (major, minor): (u32, u32),
) -> Result<()> {
    // What a disk is called in the container is another's name in the guest.
    let own = match kind {
        FileType::BlockDevice => block::name_of(major, minor).map(OsString::from),
        _ => Some(name.to_owned()),
    };
    let own = own
        .ok_or_else(|| Error::invalid(format!("the guest has no block device {major}:{minor}")))?;
    let source = Path::new("/dev").join(own);
    let what = || format!("bind the device `{}`", source.display());
    let tree = rootfs::clone_tree(&source, false).tried(what)?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o644)).tried(what)?;
    let place = rustix::fs::openat(dir, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    rootfs::attach(tree.as_fd(), place.tried(what)?.as_fd(), &source)
}

/// Every node of the guest's /dev: what `--privileged` means.
fn guest_nodes(dev: &OwnedFd) -> Result<()> {
    let entries = std::fs::read_dir("/dev").tried(|| "list the guest's devices".to_owned())?;
    for entry in entries.flatten().take(GUEST_NODES) {
        let path: PathBuf = entry.path();
        let Ok(stat) = rustix::fs::lstat(&path) else {
            continue;
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
            let numbers = (
                rustix::fs::major(stat.st_rdev),
                rustix::fs::minor(stat.st_rdev),
            );
            // The agent's own channel stays the agent's.
            if !entry.file_name().to_string_lossy().starts_with("vport") {
                node(dev, &entry.file_name(), kind, stat.st_mode & 0o777, numbers)?;
            }
        }
    }
    let net = Path::new("/dev/net/tun");
    if net.exists() {
        match rustix::fs::mkdirat(dev, "net", Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).tried(|| "make `/dev/net`".to_owned()),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(dev, "net", flags, Mode::empty())
            .tried(|| "open `/dev/net`".to_owned())?;
        node(
            &dir,
            "tun".as_ref(),
            FileType::CharacterDevice,
            0o666,
            (10, 200),
        )?;
    }
    Ok(())
}

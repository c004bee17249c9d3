//! Block devices and images of the host that become disks of a guest.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::Error;

/// What a device is called where it is opened.
const NODE: &CStr = c"device";

/// Opens the block device of these numbers: through a node made for it in a file
/// system that is mounted nowhere. No name of the host's is looked up, behind
/// which another device could be.
///
/// # Errors
/// [`Error::Device`], also when the host has no such device.
pub fn device(major: u32, minor: u32, read_only: bool) -> Result<OwnedFd, Error> {
    let failed = |source: Errno| Error::Device {
        major,
        minor,
        source: source.into(),
    };
    let dir = empty_tree().map_err(failed)?;
    let numbers = rustix::fs::makedev(major, minor);
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(&dir, NODE, FileType::BlockDevice, mode, numbers).map_err(failed)?;
    let flags = access(read_only) | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = rustix::fs::openat(&dir, NODE, flags, Mode::empty()).map_err(failed)?;
    let stat = rustix::fs::fstat(&opened).map_err(failed)?;
    let is_block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
    if !is_block || stat.st_rdev != numbers {
        return Err(failed(Errno::NODEV));
    }
    Ok(opened)
}

/// Opens the block device or regular file at `path`; nothing else is opened.
///
/// # Errors
/// [`Error::Image`], [`Error::NoImage`].
pub fn image(path: &Path, read_only: bool) -> Result<OwnedFd, Error> {
    let failed = |source: Errno| Error::Image {
        path: path.to_owned(),
        source: source.into(),
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
    let stat = rustix::fs::fstat(&found).map_err(failed)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice | FileType::RegularFile => {}
        _ => return Err(Error::NoImage(path.to_owned())),
    }
    // The very file that was looked at, whatever is at the path by now.
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = access(read_only) | OFlags::NONBLOCK;
    rustix::fs::openat(CWD, link, flags, Mode::empty()).map_err(failed)
}

/// Makes this process the only one that writes to what was opened by [`image`]: whoever
/// else mounts a device or claims it is refused from now on. open(2), `O_EXCL`; flock(2)
/// for a file.
///
/// # Errors
/// [`Error::Claimed`] when somebody else has it.
pub fn claim(file: &OwnedFd) -> Result<OwnedFd, Error> {
    let failed = |source: Errno| Error::Claimed(source.into());
    let stat = rustix::fs::fstat(file).map_err(failed)?;
    let flags = match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => access(false) | OFlags::EXCL,
        _ => access(false),
    };
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let own = rustix::fs::openat(CWD, link, flags, Mode::empty()).map_err(failed)?;
    let lock = FlockOperation::NonBlockingLockExclusive;
    rustix::fs::flock(&own, lock).map_err(failed)?;
    Ok(own)
}

/// Do the options of a disk's file system say that nobody writes to it? `idle` are those
/// that say nothing the guest does not do by itself.
///
/// # Errors
/// The first option that is neither.
pub fn is_read_only<'a>(options: &'a [String], idle: &[&str]) -> Result<bool, &'a str> {
    let other = |option: &&str| *option != "ro" && !idle.contains(option);
    let mut options = options.iter().map(String::as_str);
    match options.clone().find(other) {
        Some(other) => Err(other),
        None => Ok(options.any(|option| option == "ro")),
    }
}

/// Bytes of what was opened.
///
/// # Errors
/// What lseek(2) says.
pub fn size(file: &OwnedFd) -> std::io::Result<u64> {
    Ok(rustix::fs::seek(file, rustix::fs::SeekFrom::End(0))?)
}

fn access(read_only: bool) -> OFlags {
    let access = if read_only {
        OFlags::RDONLY
    } else {
        OFlags::RDWR
    };
    access | OFlags::CLOEXEC
}

/// A directory nobody else sees, in which nodes can be opened.
fn empty_tree() -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(&context, flags, attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loop device of the host, whether or not there is something behind it.
    const LOOP: (u32, u32) = (7, 0);

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn a_device_is_opened_by_its_numbers_alone() {
        if !is_root() {
            return;
        }
        let opened = device(LOOP.0, LOOP.1, true).unwrap();
        let stat = rustix::fs::fstat(&opened).unwrap();
        assert_eq!(stat.st_rdev, rustix::fs::makedev(LOOP.0, LOOP.1));
        let flags = rustix::fs::fcntl_getfl(&opened).unwrap();
        assert!(!flags.intersects(OFlags::WRONLY | OFlags::RDWR));
    }

    #[test]
    fn a_device_the_host_lacks_is_named_by_its_numbers() {
        if !is_root() {
            return;
        }
        // Major 60 is for experiments. Documentation/admin-guide/devices.txt.
        let text = device(60, 3, false).unwrap_err().to_string();
        assert!(text.contains("60:3"), "{text}");
    }

    #[test]
    fn an_image_is_a_file_or_a_block_device_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image");
        std::fs::write(&file, [0; 512]).unwrap();
        assert!(image(&file, false).is_ok());
        let pipe = dir.path().join("pipe");
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, mode, 0).unwrap();
        for other in [dir.path(), &pipe, Path::new("/dev/null")] {
            assert!(matches!(image(other, true), Err(Error::NoImage(_))));
        }
        let none = dir.path().join("none");
        assert!(matches!(image(&none, true), Err(Error::Image { .. })));
    }
}

//! A file as a block device: loop(4).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

// linux/loop.h.
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
/// Past the page cache of the file, where its file system can: the mount has one.
const DIRECT_IO: u32 = 16;

/// How often a device somebody else was faster to take is asked for again.
const ATTEMPTS: usize = 16;

/// struct loop_info64.
#[repr(C)]
struct Info {
    numbers: [u64; 5],
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    names: [u8; 160],
    init: [u64; 2],
}

/// struct loop_config.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// A loop device. It is given back when neither this nor a mount of it is left.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _device: OwnedFd,
}

impl LoopDevice {
    /// Makes one of a file, read-only.
    ///
    /// # Errors
    /// `ENOENT` where the kernel has no such devices, `EPERM` without
    /// `CAP_SYS_ADMIN`, `EINVAL` for what cannot be one.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        let control = File::options()
            .read(true)
            .write(true)
            .open("/dev/loop-control")?;
        for _ in 0..ATTEMPTS {
            // SAFETY: the request takes no argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
            if number < 0 {
                return Err(io::Error::last_os_error());
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = File::open(&path)?;
            match configure(&device, &file) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    return Ok(Self {
                        path,
                        _device: device.into(),
                    });
                }
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// What is to be mounted.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

fn configure(device: &File, file: &impl AsFd) -> io::Result<()> {
    let config = Config {
        fd: file.as_fd().as_raw_fd().cast_unsigned(),
        block_size: 0,
        info: Info {
            numbers: [0; 5],
            number: 0,
            encryption: [0; 2],
            flags: READ_ONLY | AUTOCLEAR | DIRECT_IO,
            names: [0; 160],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: `config` is laid out as the kernel's struct, lives through the
    // call and is only read; its descriptor is open for the call, and the
    // kernel takes a reference of its own to the file.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structs_are_as_large_as_the_kernels() {
        assert_eq!((size_of::<Info>(), size_of::<Config>()), (232, 304));
    }

    #[test]
    fn what_is_no_file_is_no_device() {
        let pipe = rustix::pipe::pipe().unwrap().0;
        assert!(LoopDevice::of(&pipe).is_err());
    }
}

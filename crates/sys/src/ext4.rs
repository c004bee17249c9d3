//! A mounted ext2, ext3 or ext4 file system, made larger.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `EXT4_IOC_RESIZE_FS`, `_IOW('f', 16, __u64)`. fs/ext4/ext4.h.
const RESIZE: libc::c_ulong = 0x4008_6610;

/// `EXT4_SUPER_MAGIC`. statfs(2).
const MAGIC: i64 = 0xef53;

/// Lets the file system mounted at `directory` have the first `bytes` of its disk.
///
/// # Errors
/// `EOPNOTSUPP` for another file system, `EINVAL` for one that would be smaller, `EPERM`
/// without `CAP_SYS_RESOURCE`, `ENOSPC` beyond its disk's end.
pub fn grow(directory: impl AsFd, bytes: u64) -> io::Result<()> {
    let own = rustix::fs::fstatfs(&directory)?;
    let block = u64::try_from(own.f_bsize).unwrap_or(0);
    if own.f_type != MAGIC || block == 0 {
        return Err(rustix::io::Errno::OPNOTSUPP.into());
    }
    let blocks: u64 = bytes / block;
    let fd = directory.as_fd().as_raw_fd();
    // SAFETY: the request reads one u64, which lives through the call.
    match unsafe { libc::ioctl(fd, RESIZE as _, &raw const blocks) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_system_is_left_alone() {
        let proc = std::fs::File::open("/proc").unwrap();
        let error = grow(&proc, 1 << 30).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    }
}

//! Tap devices: Ethernet frames of an interface through a descriptor.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// Makes a tap device in the calling thread's network namespace, with `queues`
/// descriptors: the kernel spreads connections over them. Frames carry a
/// `virtio_net_hdr`, so that checksums and segments can be left to the reader.
/// The device goes with the last copy of the descriptors. `TUNSETIFF`,
/// Documentation/networking/tuntap.rst.
///
/// # Errors
///
/// `ENOENT` without the `tun` driver, `EPERM` without `CAP_NET_ADMIN`, `EBUSY`
/// for a name in use, `E2BIG` for more queues than the kernel has;
/// `InvalidInput` for a name longer than 15 bytes.
pub fn create(name: &str, queues: u32) -> io::Result<Vec<OwnedFd>> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let several = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    let kind = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several;
    (0..queues.max(1)).map(|_| queue(name, kind)).collect()
}

/// The device's first queue, or a further one.
fn queue(name: &str, kind: libc::c_int) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
    // SAFETY: ifreq is plain data; all zeroes is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = kind as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives through the
    // call; the name in it ends in a zero, as `create` lets none pass that is
    // as long as the array.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &mut request) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_to_fit() {
        for name in ["", "sixteen-letters!"] {
            assert_eq!(
                create(name, 1).unwrap_err().kind(),
                io::ErrorKind::InvalidInput
            );
        }
    }
}

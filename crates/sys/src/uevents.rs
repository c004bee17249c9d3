//! What the kernel tells of devices: netlink(7), NETLINK_KOBJECT_UEVENT.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, netlink};

/// The group that carries the kernel's own events.
const KERNEL: u32 = 1;

/// Longest event, bytes: `UEVENT_BUFFER_SIZE`, and the line before it.
const LONGEST: usize = 8192;

/// Starts listening, without blocking. Look for a device after this, then wait.
///
/// # Errors
/// Whatever socket(2) and bind(2) say.
pub fn listen() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let protocol = Some(netlink::KOBJECT_UEVENT);
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)?;
    rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, KERNEL))?;
    Ok(socket)
}

/// Something about a block device changed, as its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockChange {
    /// Its driver.
    pub major: u32,
    /// Which of the driver's.
    pub minor: u32,
}

/// Takes the next event; `None`: it is about something else.
///
/// # Errors
/// `WouldBlock` when there is none; `ENOBUFS` when some were lost; whatever recvfrom(2)
/// says.
pub fn next_block_change(socket: impl AsFd) -> io::Result<Option<BlockChange>> {
    let mut buffer = [0_u8; LONGEST];
    let (_, length, from) = rustix::net::recvfrom(socket, &mut buffer, RecvFlags::empty())?;
    let event = &buffer[..length.min(LONGEST)];
    // Programs of this host can send here too.
    let from = from.and_then(|from| netlink::SocketAddrNetlink::try_from(from).ok());
    let is_kernel = from.is_some_and(|from| from.pid() == 0);
    Ok(is_kernel.then(|| block_change(event)).flatten())
}

/// `ACTION@PATH` and variables, each ended by a zero byte.
/// Documentation/ABI/testing/sysfs-uevent.
fn block_change(event: &[u8]) -> Option<BlockChange> {
    let variables: Vec<&str> = event
        .split(|byte| *byte == 0)
        .filter_map(|part| std::str::from_utf8(part).ok())
        .collect();
    let value = |name: &str| {
        let mut all = variables.iter();
        all.find_map(|own| own.strip_prefix(name)?.strip_prefix('='))
    };
    let is_change = value("ACTION") == Some("change") && value("SUBSYSTEM") == Some("block");
    let number = |name| value(name)?.parse().ok();
    is_change.then_some(())?;
    Some(BlockChange {
        major: number("MAJOR")?,
        minor: number("MINOR")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_changed_is_known_by_its_numbers() {
        let event = b"change@/devices/virtual/block/loop3\0ACTION=change\0SUBSYSTEM=block\0\
            MAJOR=7\0MINOR=3\0DEVNAME=loop3\0RESIZE=1\0SEQNUM=9\0";
        let wanted = BlockChange { major: 7, minor: 3 };
        assert_eq!(block_change(event), Some(wanted));
        for other in [
            &b"add@/x\0ACTION=add\0SUBSYSTEM=block\0MAJOR=7\0MINOR=3\0"[..],
            b"change@/x\0ACTION=change\0SUBSYSTEM=net\0MAJOR=7\0MINOR=3\0",
            b"change@/x\0ACTION=change\0SUBSYSTEM=block\0MAJOR=x\0MINOR=3\0",
            b"libudev\0\xfe\xed",
            b"",
        ] {
            assert_eq!(block_change(other), None);
        }
    }

    #[test]
    fn nothing_is_waited_for() {
        let socket = listen().unwrap();
        loop {
            match next_block_change(&socket) {
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    return;
                }
            }
        }
    }
}

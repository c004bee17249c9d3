//! What the kernel tells of devices. Netlink, NETLINK_KOBJECT_UEVENT.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::unix::AsyncFd;

/// The kernel's uevents: something about a device changed.
#[derive(Debug)]
pub(crate) struct DeviceEvents {
    socket: AsyncFd<OwnedFd>,
}

impl DeviceEvents {
    /// Starts listening. Look for the device after this, then wait.
    #[expect(
        deprecated,
        reason = "an OwnedFd keeps its descriptor, which is all `register` asks for"
    )]
    pub(crate) fn watch() -> io::Result<Self> {
        Ok(Self {
            socket: AsyncFd::new(bulkhead_sys::uevents::listen()?)?,
        })
    }

    /// Waits for the next event, whatever it is about.
    pub(crate) async fn next(&self) -> io::Result<()> {
        let mut buffer = [0u8; 8192];
        loop {
            let mut ready = self.socket.readable().await?;
            match ready.try_io(|fd| {
                Ok(rustix::net::recv(
                    fd.get_ref(),
                    &mut buffer[..],
                    RecvFlags::empty(),
                )?)
            }) {
                // Events were lost: there was at least one.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                    return Ok(());
                }
                Ok(result) => return result.map(|_| ()),
                Err(_would_block) => {}
            }
        }
    }
}

//! Block devices that grow on the host while a guest has them: the host's kernel tells.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bulkhead_provision::block;
use bulkhead_sandbox::Sandbox;
use bulkhead_sys::uevents::{self, BlockChange};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use super::disks::{Disks, Key};

impl Disks {
    /// Passes growth on from now on, as long as the machine lives.
    #[expect(
        deprecated,
        reason = "an OwnedFd keeps its descriptor, which is all `register` asks for"
    )]
    pub(super) fn watch(&self, sandbox: &Arc<Sandbox>) {
        // Before a device is looked at: what it becomes meanwhile is not missed.
        let socket = match uevents::listen().and_then(AsyncFd::new) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "disks that grow are not seen to");
                return;
            }
        };
        let (disks, sandbox) = (self.clone(), Arc::clone(sandbox));
        tokio::spawn(async move {
            tokio::select! {
                ended = disks.follow(&socket, &sandbox) => {
                    if let Err(error) = ended {
                        tracing::warn!(%error, "disks that grow are not seen any more");
                    }
                }
                _ = sandbox.ended() => {}
            }
        });
    }

    async fn follow(&self, socket: &AsyncFd<OwnedFd>, sandbox: &Sandbox) -> io::Result<()> {
        loop {
            let mut ready = socket.readable().await?;
            let event = match ready.try_io(uevents::next_block_change) {
                Err(_would_block) => continue,
                Ok(event) => event,
            };
            let changed = match event {
                Ok(None) => continue,
                Ok(Some(BlockChange { major, minor })) => {
                    Some(Key::Device(rustix::fs::makedev(major, minor)))
                }
                // Some were lost, of whatever device.
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => None,
                Err(error) => return Err(error),
            };
            self.see(sandbox, changed).await;
        }
    }

    /// Looks at a device again, or at all, and tells the guest what has grown.
    async fn see(&self, sandbox: &Sandbox, changed: Option<Key>) {
        let mut plugged = self.plugged.lock().await;
        for (key, own) in plugged.iter_mut() {
            let Key::Device(device) = key else { continue };
            // QEMU changes nothing about what it can only read.
            if own.read_only || changed.is_some_and(|changed| changed != *key) {
                continue;
            }
            let (major, minor) = (rustix::fs::major(*device), rustix::fs::minor(*device));
            let Some(bytes) = size(major, minor).filter(|bytes| *bytes > own.bytes) else {
                continue;
            };
            match sandbox.resize_disk(&own.serial, bytes).await {
                Ok(()) => own.bytes = bytes,
                Err(error) => {
                    tracing::warn!(serial = own.serial, %error, "the guest does not see a disk grow");
                }
            }
        }
    }
}

fn size(major: u32, minor: u32) -> Option<u64> {
    let device = block::device(major, minor, true).ok()?;
    block::size(&device).ok()
}

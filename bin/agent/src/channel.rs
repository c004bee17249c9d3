//! The virtio-serial port that joins the agent to the host.

use std::io;
use std::path::Path;

use bulkhead_protocol::{CHANNEL_PORT, READY};
use rustix::fs::{Mode, OFlags};
use tokio::io::AsyncWriteExt;

use crate::fd::AsyncFile;

const PORTS: &str = "/sys/class/virtio-ports";

/// Opens the host's port. The driver may find it a moment after init runs, so
/// this waits for it to appear; the host bounds how long that may take.
pub(crate) async fn open() -> io::Result<AsyncFile> {
    let events = crate::uevents::DeviceEvents::watch()?;
    loop {
        if let Some(name) = find()? {
            let path = Path::new("/dev").join(name);
            let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
            return AsyncFile::new(rustix::fs::open(path, flags, Mode::empty())?);
        }
        events.next().await?;
    }
}

fn find() -> io::Result<Option<std::ffi::OsString>> {
    let entries = match std::fs::read_dir(PORTS) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == CHANNEL_PORT {
            return Ok(Some(entry.file_name()));
        }
    }
    Ok(None)
}

/// Tells the host that userspace runs.
pub(crate) async fn announce(channel: &mut AsyncFile) -> io::Result<()> {
    channel.write_all(&[READY]).await
}

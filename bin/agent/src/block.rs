//! Disks the host has attached or plugged in, found by their serials.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_protocol::agent::BlockRef;
use rustix::fs::{FileType, Mode, OFlags};

use crate::uevents::DeviceEvents;
use crate::virtio;

/// How long a disk may take to show up.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);

const DISKS: &str = "/sys/block";

/// Who drives them.
const DRIVER: &str = "virtio_blk";

/// Why a disk could not be had, or not be given back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the disk `{0}` did not appear in the guest")]
    Missing(String),
    #[error("the disk `{0}` did not grow in the guest")]
    Size(String),
    #[error("the kernel's device events could not be read")]
    Events(#[source] io::Error),
    #[error("the disk `{0}` is no virtio device")]
    Foreign(String),
    #[error("the disk `{serial}` could not be {what}")]
    Failed {
        serial: String,
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

/// The device node of a disk or a part of one; waits for it to appear.
pub(crate) async fn find(disk: &BlockRef) -> Result<String, Error> {
    let late = || Error::Missing(disk.serial.clone());
    wait(late, || Ok(look(disk))).await
}

/// What a look at the disks finds, now or after an event.
async fn wait<T>(
    late: impl FnOnce() -> Error,
    look: impl Fn() -> Result<Option<T>, Error>,
) -> Result<T, Error> {
    let events = DeviceEvents::watch().map_err(Error::Events)?;
    let wait = async {
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            events.next().await.map_err(Error::Events)?;
        }
    };
    let outcome = tokio::time::timeout(ARRIVAL_TIMEOUT, wait).await;
    outcome.unwrap_or_else(|_| Err(late()))
}

fn look(disk: &BlockRef) -> Option<String> {
    let name = named(&disk.serial)?;
    let part = match disk.partition {
        0 => String::new(),
        number => number.to_string(),
    };
    let path = format!("/dev/{name}{part}");
    Path::new(&path).exists().then_some(path)
}

/// The kernel's name of the disk with this serial.
fn named(serial: &str) -> Option<String> {
    for entry in std::fs::read_dir(DISKS).ok()?.flatten() {
        let own = std::fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if !serial.is_empty() && own.trim_end() == serial {
            return Some(entry.file_name().to_string_lossy().into_owned());
        }
    }
    None
}

/// Bytes of the disk with this serial, when they are so many at least.
pub(crate) async fn grown(serial: &str, bytes: u64) -> Result<u64, Error> {
    let late = || Error::Size(serial.to_owned());
    wait(late, || Ok(Some(size(serial)?).filter(|now| *now >= bytes))).await
}

/// Documentation/ABI/stable/sysfs-block, `size`.
fn size(serial: &str) -> Result<u64, Error> {
    let missing = || Error::Missing(serial.to_owned());
    let name = named(serial).ok_or_else(missing)?;
    let text = std::fs::read_to_string(Path::new(DISKS).join(name).join("size"));
    let sectors = text.ok().and_then(|text| text.trim().parse::<u64>().ok());
    sectors.map(|sectors| sectors * 512).ok_or_else(missing)
}

/// The numbers of a disk, which has to be there.
pub(crate) fn numbers(device: &str) -> io::Result<(u32, u32)> {
    let stat = rustix::fs::stat(device)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => Ok((
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        )),
        _ => Err(rustix::io::Errno::NOTBLK.into()),
    }
}

/// The name of a block device in the guest's `/dev`, by its numbers.
pub(crate) fn name_of(major: u32, minor: u32) -> Option<String> {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    Some(link.file_name()?.to_str()?.to_owned())
}

/// Disks that something is plugged into, and taken out of, while the guest runs.
/// A driver reads the size of a disk when it takes it on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plugs {
    /// Those without a driver: their serials, and which device each is.
    idle: Arc<Mutex<HashMap<String, String>>>,
}

impl Plugs {
    fn idle(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks anew at a disk, which nobody uses.
    pub(crate) async fn take(&self, serial: &str) -> Result<(), Error> {
        let known = self.idle().get(serial).cloned();
        let device = match known {
            Some(device) => device,
            None => {
                let disk = BlockRef {
                    serial: serial.to_owned(),
                    ..Default::default()
                };
                find(&disk).await?;
                self.leave(serial)?
            }
        };
        virtio::drive(DRIVER, "bind", &device).map_err(|source| Error::Failed {
            serial: serial.to_owned(),
            what: "taken",
            source,
        })?;
        self.idle().remove(serial);
        Ok(())
    }

    /// Writes back what a disk was given, and forgets it. Nothing happens when
    /// there is none.
    pub(crate) fn release(&self, serial: &str) -> Result<(), Error> {
        let Some(name) = named(serial) else {
            return Ok(());
        };
        let written = open(&name).and_then(|disk| Ok(rustix::fs::fsync(disk)?));
        let left = self.leave(serial);
        written.map_err(|source| Error::Failed {
            serial: serial.to_owned(),
            what: "written back",
            source,
        })?;
        left.map(|_| ())
    }

    /// Takes a disk from its driver; which device it is.
    fn leave(&self, serial: &str) -> Result<String, Error> {
        let name = named(serial).ok_or_else(|| Error::Missing(serial.to_owned()))?;
        let device = virtio::device(&Path::new(DISKS).join(&name))
            .ok_or_else(|| Error::Foreign(serial.to_owned()))?;
        virtio::drive(DRIVER, "unbind", &device).map_err(|source| Error::Failed {
            serial: serial.to_owned(),
            what: "given back",
            source,
        })?;
        self.idle().insert(serial.to_owned(), device.clone());
        Ok(device)
    }
}

fn open(name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let path = Path::new("/dev").join(name);
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

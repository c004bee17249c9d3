//! Disks of a pod: block devices and images of the host its containers use.
//!
//! One that several use is one disk of the guest: two would each have a cache of
//! their own, and show different things. It is taken away with its last user.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use bulkhead_bundle::BlockDevice;
use bulkhead_provision::block;
use bulkhead_sandbox::{Device, DiskError, Sandbox};
use rustix::fs::{FileType, Stat};
use tokio::sync::Mutex;

use crate::failure::{Failure, Outcome};
use crate::machine::{self, SPARE_DISKS};
use crate::rootfs::Image;

/// What a disk is on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Device(u64),
    File(u64, u64),
}

impl Key {
    fn of(stat: &Stat) -> Self {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => Self::Device(stat.st_rdev),
            _ => Self::File(stat.st_dev, stat.st_ino),
        }
    }
}

pub(super) struct Plugged {
    pub(super) serial: String,
    /// What the guest knows of its size.
    pub(super) bytes: u64,
    pub(super) read_only: bool,
    /// Nobody else may use it: it is mounted to be written.
    alone: bool,
    users: usize,
}

/// Who else may use what is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Whoever its owner says.
    Anybody,
    /// Other containers of the pod: its file system is mounted once.
    Pod,
    /// Nobody: it is a root filesystem that is written.
    Nobody,
}

/// What is plugged in.
#[derive(Clone, Default)]
pub(super) struct Disks {
    // Held while something is plugged in or taken away: whoever wants the same
    // has to wait for it in any case.
    pub(super) plugged: Arc<Mutex<HashMap<Key, Plugged>>>,
    /// Set when somebody looks whether they grow.
    watched: Arc<OnceLock<()>>,
}

/// A disk somebody uses; dropped, it is given back some time later.
pub(super) struct Use {
    disks: Disks,
    sandbox: Arc<Sandbox>,
    key: Option<Key>,
    serial: String,
}

impl Use {
    pub(super) fn serial(&self) -> &str {
        &self.serial
    }

    /// Gives it back; of a last user, the host's file is closed afterwards.
    pub(super) async fn release(mut self) {
        if let Some(key) = self.key.take() {
            self.disks.release(&self.sandbox, key).await;
        }
    }

    /// Its machine is gone, and the disk with it.
    pub(super) fn forget(mut self) {
        self.key = None;
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let runtime = tokio::runtime::Handle::try_current();
        if let (Some(key), Ok(runtime)) = (self.key.take(), runtime) {
            let (disks, sandbox) = (self.disks.clone(), Arc::clone(&self.sandbox));
            runtime.spawn(async move { disks.release(&sandbox, key).await });
        }
    }
}

impl Disks {
    /// Plugs a file or block device in, unless it is. It is done to its end, and
    /// undone, also when the caller has gone away.
    pub(super) async fn plug(
        &self,
        sandbox: &Arc<Sandbox>,
        file: OwnedFd,
        read_only: bool,
        sharing: Sharing,
    ) -> Outcome<Use> {
        let (disks, sandbox) = (self.clone(), Arc::clone(sandbox));
        let work = async move { disks.add(sandbox, file, read_only, sharing).await };
        let done = tokio::spawn(work).await;
        done.unwrap_or_else(|_| Err(Failure::internal("plugging a disk in panicked")))
    }

    async fn add(
        self,
        sandbox: Arc<Sandbox>,
        file: OwnedFd,
        read_only: bool,
        sharing: Sharing,
    ) -> Outcome<Use> {
        let alone = sharing == Sharing::Nobody;
        let stat = rustix::fs::fstat(&file).map_err(|error| Failure::from_error(&error))?;
        let key = Key::of(&stat);
        let plugged = Arc::clone(&self.plugged);
        let mut plugged = plugged.lock().await;
        let serial = match plugged.get_mut(&key) {
            Some(own) => {
                own.share(read_only, alone)?;
                own.serial.clone()
            }
            None => {
                let file = match sharing {
                    Sharing::Pod if !read_only => block::claim(&file),
                    _ => Ok(file),
                };
                let file = file.map_err(|error| Failure::from_error(&error))?;
                self.watched.get_or_init(|| self.watch(&sandbox));
                let bytes = block::size(&file).map_err(|error| Failure::from_error(&error))?;
                let serial = sandbox.plug(file, read_only).await.map_err(failure)?;
                let own = Plugged {
                    serial: serial.clone(),
                    bytes,
                    read_only,
                    alone,
                    users: 1,
                };
                plugged.insert(key, own);
                serial
            }
        };
        drop(plugged);
        Ok(Use {
            disks: self,
            sandbox,
            key: Some(key),
            serial,
        })
    }

    async fn release(&self, sandbox: &Sandbox, key: Key) {
        let mut plugged = self.plugged.lock().await;
        let Some(own) = plugged.get_mut(&key) else {
            return;
        };
        own.users -= 1;
        if own.users > 0 {
            return;
        }
        // With the machine, everything is given back.
        if let Err(error) = sandbox.unplug(&own.serial).await {
            tracing::warn!(serial = own.serial, %error, "a disk was not taken away");
        }
        plugged.remove(&key);
    }
}

impl Plugged {
    /// One more user.
    fn share(&mut self, read_only: bool, alone: bool) -> Outcome<()> {
        if self.alone || alone {
            return Err(Failure::invalid(
                "the block device or image of a writable root filesystem is used in this pod \
                 already; it can have no other user",
            ));
        }
        if self.read_only != read_only {
            let had = if self.read_only {
                "read-only"
            } else {
                "writable"
            };
            return Err(Failure::invalid(format!(
                "the block device is {had} in another container of this pod, and has to be the \
                 same in all of them"
            )));
        }
        self.users += 1;
        Ok(())
    }
}

fn failure(error: DiskError) -> Failure {
    match error {
        DiskError::Monitor(error @ bulkhead_hypervisor::Error::Unsupported { .. }) => {
            Failure::invalid(error.to_string())
        }
        DiskError::Monitor(error) => Failure::from_error(&error),
        DiskError::Agent(error) => error.into(),
    }
}

/// Gives disks back, one after the other.
pub(super) async fn release(uses: impl Iterator<Item = Use>) {
    for used in uses {
        used.release().await;
    }
}

/// Block devices of a container, opened.
pub(super) fn open(devices: &[BlockDevice]) -> Outcome<Vec<(BlockDevice, OwnedFd)>> {
    let room = SPARE_DISKS.writable + SPARE_DISKS.read_only;
    if devices.len() > room {
        return Err(Failure::invalid(format!(
            "the container has {} block devices, more than the {room} its pod has room for",
            devices.len()
        )));
    }
    let open = |own: &BlockDevice| {
        let file = block::device(own.major, own.minor, own.read_only);
        let file = file.map_err(|error| Failure::invalid(bulkhead_provision::chain(&error)))?;
        Ok((*own, file))
    };
    devices.iter().map(open).collect()
}

impl Disks {
    /// Plugs in what a container's spec names; what the guest is told of it.
    pub(super) async fn devices(
        &self,
        sandbox: &Arc<Sandbox>,
        opened: Vec<(BlockDevice, OwnedFd)>,
        uses: &mut Vec<Use>,
    ) -> Outcome<Vec<Device>> {
        let mut devices = Vec::new();
        for (own, file) in opened {
            let used = self
                .plug(sandbox, file, own.read_only, Sharing::Anybody)
                .await?;
            devices.push(Device {
                disk: Some(machine::disk(used.serial())).into(),
                major: own.major,
                minor: own.minor,
                ..Default::default()
            });
            uses.push(used);
        }
        Ok(devices)
    }

    /// Plugs a root filesystem in; the serial of its disk.
    pub(super) async fn image(
        &self,
        sandbox: &Arc<Sandbox>,
        image: Image,
        uses: &mut Vec<Use>,
    ) -> Outcome<String> {
        let sharing = match image.read_only {
            true => Sharing::Anybody,
            false => Sharing::Nobody,
        };
        let used = self
            .plug(sandbox, image.file, image.read_only, sharing)
            .await?;
        let serial = used.serial().to_owned();
        uses.push(used);
        Ok(serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugged(read_only: bool, alone: bool) -> Plugged {
        Plugged {
            serial: "spare0".to_owned(),
            bytes: 0,
            read_only,
            alone,
            users: 1,
        }
    }

    #[test]
    fn a_disk_is_the_same_for_all_who_use_it() {
        for read_only in [true, false] {
            let mut own = plugged(read_only, false);
            own.share(read_only, false).unwrap();
            assert_eq!(own.users, 2);
            let text = own.share(!read_only, false).unwrap_err().to_string();
            assert!(text.contains("same in all"), "{text}");
            assert!(own.share(read_only, true).is_err());
            assert_eq!(own.users, 2);
        }
        assert!(plugged(false, true).share(false, false).is_err());
    }

    #[test]
    fn a_device_is_known_by_its_numbers_and_a_file_by_its_place() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stat = |path| Key::of(&rustix::fs::stat(path).unwrap());
        let link = file.path().with_extension("link");
        std::fs::hard_link(file.path(), &link).unwrap();
        assert_eq!(stat(file.path()), stat(link.as_path()));
        std::fs::remove_file(&link).unwrap();
        let loop0 = stat(std::path::Path::new("/dev/loop0"));
        assert_eq!(loop0, Key::Device(rustix::fs::makedev(7, 0)));
    }

    #[test]
    fn more_devices_than_there_is_room_for_are_not_even_opened() {
        let device = |minor| BlockDevice {
            major: 60,
            minor,
            read_only: false,
        };
        let many: Vec<_> = (0..7).map(device).collect();
        let text = open(&many).err().unwrap().to_string();
        assert!(text.contains("7 block devices"), "{text}");
    }
}

//! Disks that are plugged into a running machine: each takes the place of a
//! spare one, which was nothing until then.
//!
//! ```text
//!   virtio-blk, serial spareN ── raw spareN ──┬── null-co spareNn
//!                              (moved by us)  └── file or host_device spareNd ── descriptor
//! ```

use std::os::fd::{AsFd, OwnedFd};

use bulkhead_hypervisor::{Error, SpareDisks};
use rustix::fs::FileType;
use serde_json::{Value, json};

use crate::qmp::Qmp;

/// The names of a spare disk.
pub(crate) struct Slot {
    /// What the guest finds it by.
    pub(crate) serial: String,
    /// The node its device stands on.
    pub(crate) node: String,
    /// What that stands on while nothing is plugged in.
    pub(crate) nothing: String,
    /// What it stands on otherwise.
    data: String,
}

impl Slot {
    /// Of the disk with this number.
    pub(crate) fn of(number: usize) -> Self {
        Self {
            serial: format!("spare{number}"),
            node: format!("spare{number}"),
            nothing: format!("spare{number}n"),
            data: format!("spare{number}d"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spare {
    read_only: bool,
    taken: bool,
}

/// The spare disks of a machine.
#[derive(Debug)]
pub(crate) struct Spares {
    disks: Vec<Spare>,
}

impl Spares {
    pub(crate) fn new(wanted: SpareDisks) -> Self {
        let spares = |count, read_only| {
            let spare = Spare {
                read_only,
                taken: false,
            };
            std::iter::repeat_n(spare, count)
        };
        let writable = spares(wanted.writable, false);
        Self {
            disks: writable.chain(spares(wanted.read_only, true)).collect(),
        }
    }

    /// Which of them are read-only.
    pub(crate) fn kinds(&self) -> Vec<bool> {
        self.disks.iter().map(|disk| disk.read_only).collect()
    }

    /// Plugs a file in; the serial of its disk. Nothing is left of a failure.
    pub(crate) async fn plug(
        &mut self,
        qmp: &mut Qmp,
        file: &OwnedFd,
        read_only: bool,
    ) -> Result<String, Error> {
        let free = |disk: &Spare| !disk.taken && disk.read_only == read_only;
        let number = self.disks.iter().position(free);
        let number = number.ok_or_else(|| self.none_left(read_only))?;
        let slot = Slot::of(number);
        let set = pass(qmp, file).await?;
        let moved = attach(qmp, &slot, set, file, read_only).await;
        // The node has what it needs of the set.
        let _ = remove_set(qmp, set).await;
        moved?;
        self.disks[number].taken = true;
        Ok(slot.serial)
    }

    /// Takes what is plugged in away.
    pub(crate) async fn unplug(&mut self, qmp: &mut Qmp, serial: &str) -> Result<(), Error> {
        let Some((number, slot)) = self.taken(serial) else {
            return Ok(());
        };
        let disk = &mut self.disks[number];
        stand(qmp, &slot, &slot.nothing, disk.read_only).await?;
        delete(qmp, &slot.data).await?;
        disk.taken = false;
        Ok(())
    }

    /// Tells the guest how large what is plugged in has become.
    pub(crate) async fn resize(
        &self,
        qmp: &mut Qmp,
        serial: &str,
        bytes: u64,
    ) -> Result<(), Error> {
        let (_, slot) = self.taken(serial).ok_or_else(|| Error::Unsupported {
            backend: "qemu",
            what: format!("a new size of the disk `{serial}`, into which nothing is plugged"),
        })?;
        let asked = json!({"node-name": slot.node, "size": bytes});
        qmp.ask("block_resize", asked, None).await.map(|_| ())
    }

    /// The disk of this serial, if something is plugged in.
    fn taken(&self, serial: &str) -> Option<(usize, Slot)> {
        let taken = self.disks.iter().enumerate().filter(|(_, disk)| disk.taken);
        let mut slots = taken.map(|(number, _)| (number, Slot::of(number)));
        slots.find(|(_, slot)| slot.serial == serial)
    }

    fn none_left(&self, read_only: bool) -> Error {
        let kind = if read_only { "read-only" } else { "writable" };
        let all = self.disks.iter();
        let count = all.filter(|disk| disk.read_only == read_only).count();
        Error::Unsupported {
            backend: "qemu",
            what: format!(
                "one more disk: the machine has room for {count} {kind} ones at a time; use fewer \
                 block volumes and block root filesystems"
            ),
        }
    }
}

/// Hands a descriptor over; the set it is in.
async fn pass(qmp: &mut Qmp, file: &OwnedFd) -> Result<u64, Error> {
    let answer = qmp.ask("add-fd", json!({}), Some(file.as_fd())).await?;
    answer["fdset-id"].as_u64().ok_or_else(|| Error::Control {
        command: "add-fd".to_owned(),
        detail: "no set in the answer".to_owned(),
    })
}

async fn attach(
    qmp: &mut Qmp,
    slot: &Slot,
    set: u64,
    file: &OwnedFd,
    read_only: bool,
) -> Result<(), Error> {
    let mut data = node(&slot.data, driver(file), read_only);
    data["filename"] = json!(format!("/dev/fdset/{set}"));
    data["locking"] = json!("off");
    data["aio"] = json!("threads");
    data["discard"] = json!("unmap");
    qmp.ask("blockdev-add", data, None).await?;
    let moved = stand(qmp, slot, &slot.data, read_only).await;
    if moved.is_err() {
        let _ = delete(qmp, &slot.data).await;
    }
    moved
}

/// No format is ever guessed: the bytes are the disk's.
fn driver(file: &OwnedFd) -> &'static str {
    let kind = rustix::fs::fstat(file).map(|stat| FileType::from_raw_mode(stat.st_mode));
    match kind {
        Ok(FileType::BlockDevice) => "host_device",
        _ => "file",
    }
}

/// Makes the disk's node stand on another.
async fn stand(qmp: &mut Qmp, slot: &Slot, on: &str, read_only: bool) -> Result<(), Error> {
    let mut own = node(&slot.node, "raw", read_only);
    own["file"] = json!(on);
    own["discard"] = json!("unmap");
    let asked = json!({"options": [own]});
    qmp.ask("blockdev-reopen", asked, None).await.map(|_| ())
}

fn node(name: &str, driver: &str, read_only: bool) -> Value {
    json!({"node-name": name, "driver": driver, "read-only": read_only})
}

async fn delete(qmp: &mut Qmp, node: &str) -> Result<(), Error> {
    let asked = json!({"node-name": node});
    qmp.ask("blockdev-del", asked, None).await.map(|_| ())
}

async fn remove_set(qmp: &mut Qmp, set: u64) -> Result<(), Error> {
    let asked = json!({"fdset-id": set});
    qmp.ask("remove-fd", asked, None).await.map(|_| ())
}

#[cfg(test)]
mod tests;

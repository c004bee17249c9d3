//! Volumes whose disk the guest mounts itself, since a storage driver left it to it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_bundle::Bind;
use bulkhead_provision::direct::{self, DirectVolume, Group};
use bulkhead_provision::{Error, block, chain};
use bulkhead_sandbox::{DiskUsage, Group as Wanted, RootDisk, Sandbox, Volume};
use bulkhead_status as status;

use super::Pod;
use super::disks::{Sharing, Use};
use crate::failure::{Failure, Outcome};
use crate::machine;

/// One that is in use: where it is for the host, and which disk of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    path: PathBuf,
    serial: String,
}

/// One a container is to be given.
pub(super) struct Opened {
    /// Number of its mount, from 1.
    mount: u32,
    path: PathBuf,
    about: DirectVolume,
    file: OwnedFd,
}

fn wrong(error: &Error) -> Failure {
    Failure::invalid(chain(error))
}

fn find(path: &Path) -> Outcome<Option<DirectVolume>> {
    direct::find(Path::new(direct::ROOT), path).map_err(|error| wrong(&error))
}

/// Opens the disk of a mount's source, if it has one.
pub(super) fn open(bind: &Bind, mount: u32) -> Outcome<Option<Opened>> {
    let Some(about) = find(&bind.source)? else {
        return Ok(None);
    };
    let file = block::image(&about.device, about.read_only).map_err(|error| wrong(&error))?;
    Ok(Some(Opened {
        mount,
        path: bind.source.clone(),
        about,
        file,
    }))
}

impl Pod {
    /// Plugs the disks of a container's volumes in; what the guest is told of them.
    pub(super) async fn direct_volumes(
        &self,
        sandbox: &Arc<Sandbox>,
        opened: Vec<Opened>,
        uses: &mut Vec<Use>,
    ) -> Outcome<Vec<Volume>> {
        let mut volumes = Vec::new();
        for own in opened {
            let read_only = own.about.read_only;
            let plugged = self.disks.plug(sandbox, own.file, read_only, Sharing::Pod);
            let used = plugged.await.map_err(|error| {
                let path = own.path.display();
                Failure::invalid(format!(
                    "the volume `{path}` cannot be had as a disk: {error}"
                ))
            })?;
            let known = Known {
                path: own.path,
                serial: used.serial().to_owned(),
            };
            uses.push(used);
            volumes.push(told(&known.serial, own.mount, &own.about));
            note(&mut self.lock().direct, known);
        }
        Ok(volumes)
    }

    /// Gives the file system of a volume all of its disk, which has grown.
    pub(super) async fn grow_volume(&self, path: &Path, wanted: u64) -> Outcome<()> {
        let known = self
            .lock()
            .direct
            .iter()
            .find(|own| own.path == path)
            .cloned();
        let none = || Failure::missing(format!("the pod has no disk for `{}`", path.display()));
        let (known, about) = known.zip(find(path)?).ok_or_else(none)?;
        let device = block::image(&about.device, true).map_err(|error| wrong(&error))?;
        let size = block::size(&device).map_err(|error| Failure::from_error(&error))?;
        if size < wanted {
            return Err(Failure::invalid(format!(
                "`{}` has {size} bytes, fewer than {wanted}: it has to grow before its file system",
                about.device.display()
            )));
        }
        let grown = self.running()?.grow_disk(&known.serial, size).await;
        grown.map_err(|error| Failure::invalid(error.to_string()))
    }

    /// How full they are, of what the guest says of its disks.
    pub(super) fn volumes(&self, disks: &[DiskUsage]) -> Vec<status::Volume> {
        let all = self.lock().direct.clone();
        let usage = |known: Known| {
            let own = disks.iter().find(|disk| disk.serial == known.serial)?;
            Some(status::Volume {
                path: known.path,
                bytes: status::Amount {
                    total: own.total_bytes,
                    used: own.used_bytes,
                    available: own.available_bytes,
                },
                inodes: status::Amount {
                    total: own.total_inodes,
                    used: own.total_inodes.saturating_sub(own.available_inodes),
                    available: own.available_inodes,
                },
            })
        };
        all.into_iter().filter_map(usage).collect()
    }
}

/// Whatever was known of the same disk or volume is over.
fn note(all: &mut Vec<Known>, known: Known) {
    all.retain(|other| other.serial != known.serial && other.path != known.path);
    all.push(known);
}

fn told(serial: &str, mount: u32, about: &DirectVolume) -> Volume {
    let disk = RootDisk {
        at: Some(machine::disk(serial)).into(),
        filesystem: about.filesystem.to_owned(),
        read_only: about.read_only,
        ..Default::default()
    };
    let group = about.group.map(|Group { gid, on_mismatch }| Wanted {
        gid,
        on_mismatch,
        ..Default::default()
    });
    Volume {
        mount,
        disk: Some(disk).into(),
        group: group.into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_of_the_volume_that_had_it_last() {
        let known = |path: &str, serial: &str| Known {
            path: path.into(),
            serial: serial.to_owned(),
        };
        let mut all = Vec::new();
        for own in [
            known("/a", "spare0"),
            known("/b", "spare1"),
            known("/c", "spare0"),
        ] {
            note(&mut all, own);
        }
        assert_eq!(all, [known("/b", "spare1"), known("/c", "spare0")]);
        note(&mut all, known("/b", "spare2"));
        assert_eq!(all, [known("/c", "spare0"), known("/b", "spare2")]);
    }
}

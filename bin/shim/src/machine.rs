//! What a pod's machine is made of.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use bulkhead_bundle::Growth;
use bulkhead_config::Config;
use bulkhead_hypervisor::{BootImage, Disk, DiskSource, Spare, SpareDisks, VmConfig};
use bulkhead_provision::monitor::{self, Monitor};
use bulkhead_provision::network::{self, Joined};
use bulkhead_provision::share::{self, Server};
use bulkhead_provision::{Helper, guest, user, writable};
use bulkhead_sandbox::{BlockRef, GuestConfig, RootDisk, Rootfs, SandboxConfig};
use bulkhead_share::{Order, Pod as Share, Tree};
use oci_spec::runtime::Spec;

use crate::failure::{Failure, Outcome};
use crate::place::Place;

/// Tag of the one share of a pod.
pub(crate) const SHARE: &str = "pod";

/// Serial of the disk its containers write on.
const WRITABLE: &str = "writable";

/// Where that disk is: on the host's disk, while `/run`, where a pod has its
/// place, is memory, and small. hier(7).
const DISKS: &str = "/var/tmp";

/// Block volumes and block root filesystems a pod can have at a time. Each costs
/// every start a moment, used or not (docs/design/0011-hotplug.md).
pub(crate) const SPARE_DISKS: SpareDisks = SpareDisks {
    writable: 4,
    read_only: 2,
};

/// When the interfaces of a pod's network namespace are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Networks {
    /// Before the pod.
    First,
    /// Perhaps only before its container is started: docker makes them then, from its
    /// version 28 on.
    Later,
}

/// A machine ready to be started, and what has to live as long.
pub(crate) struct Machine {
    pub(crate) monitor: Monitor,
    pub(crate) config: SandboxConfig,
    pub(crate) helpers: Vec<Helper>,
    pub(crate) share: Share,
    network: Joined,
}

impl Machine {
    /// What gives the network back when it is dropped.
    pub(crate) fn take_network(&mut self) -> Joined {
        std::mem::take(&mut self.network)
    }
}

fn failed(error: impl std::error::Error + 'static) -> Failure {
    Failure::from_error(&error)
}

/// Prepares the machine of a pod. Has to run on the process's first thread,
/// with which the helpers die. Nothing is left of a failure.
pub(crate) fn prepare(
    spec: &Spec,
    config: &Config,
    place: &Place,
    size: Growth,
    networks: Networks,
) -> Outcome<Machine> {
    // The monitor is asked for its version while the rest is made.
    std::thread::scope(|scope| {
        let monitor = scope.spawn(|| monitor::open(&config.accelerator).map_err(failed));
        let parts = Parts::new(spec, config, place, size, networks);
        let monitor = monitor
            .join()
            .unwrap_or_else(|_| Err(Failure::internal("the search for a monitor panicked")));
        Ok(parts?.assemble(monitor?, spec, config, place, size))
    })
}

struct Parts {
    guest: (OwnedFd, OwnedFd),
    server: Server,
    share: Share,
    writable: OwnedFd,
    network: Joined,
}

impl Parts {
    fn new(
        spec: &Spec,
        config: &Config,
        place: &Place,
        size: Growth,
        networks: Networks,
    ) -> Outcome<Self> {
        let guest = guest::open(&config.kernel, config.guests.clone()).map_err(failed)?;
        // The file server closes itself in while the rest is made.
        let mut server = serve(&place.dir())?;
        let disk = writable::make_unnamed(Path::new(DISKS), config.storage_mib << 20);
        let writable = disk.map_err(failed)?;
        let network = join(spec, place, size.size().vcpus, networks)?;
        share::ready(&mut server.helper).map_err(failed)?;
        let share = Share::of(server.helper.pid()).map_err(failed)?;
        Ok(Self {
            guest,
            server,
            share,
            writable,
            network,
        })
    }

    fn assemble(
        self,
        monitor: Monitor,
        spec: &Spec,
        config: &Config,
        place: &Place,
        size: Growth,
    ) -> Machine {
        let (kernel, initramfs) = self.guest;
        let mut network = self.network;
        let (own, spare) = (size.size(), size.spare());
        let vm = VmConfig {
            boot: BootImage {
                kernel,
                initramfs,
                cmdline: Vec::new(),
            },
            vcpus: own.vcpus,
            memory: own.memory,
            spare: Spare {
                vcpus: spare.vcpus,
                memory: spare.memory,
            },
            disks: vec![Disk {
                serial: WRITABLE.to_owned(),
                source: DiskSource::File(self.writable),
                read_only: false,
            }],
            nets: std::mem::take(&mut network.devices),
            shares: vec![self.server.device],
            spare_disks: SPARE_DISKS,
            user: user::of(place.key()),
        };
        let guest = GuestConfig {
            hostname: spec.hostname().clone().unwrap_or_default(),
            shm_bytes: bulkhead_bundle::shared_memory(spec),
            network: Some(network::told(
                std::mem::take(&mut network.interfaces),
                std::mem::take(&mut network.routing),
            ))
            .into(),
            ..Default::default()
        };
        Machine {
            monitor,
            config: SandboxConfig {
                vm,
                guest,
                timeout: config.timeout(),
            },
            helpers: vec![self.server.helper],
            share: self.share,
            network,
        }
    }
}

fn serve(dir: &Path) -> Outcome<Server> {
    let order = Order {
        read_only: false,
        later: false,
        tree: Tree::Pod,
    };
    let nothing = File::open(dir).map_err(failed)?;
    Server::start(dir, SHARE, Path::new("the pod"), nothing.into(), &order).map_err(failed)
}

/// Joins the pod's network namespace. What has to be undone is written down
/// first: this process may be killed at any moment.
fn join(spec: &Spec, place: &Place, vcpus: u32, networks: Networks) -> Outcome<Joined> {
    let Some(path) = bulkhead_bundle::network(spec) else {
        return Ok(Joined::default());
    };
    place.note_network(&path).map_err(failed)?;
    match network::join(&path, place.key(), vcpus) {
        Ok(joined) => Ok(joined),
        Err(error) if network::is_empty(&error) => match networks {
            Networks::Later => network::reserve(&path, place.key(), vcpus).map_err(failed),
            // A namespace without interfaces is a pod without a network.
            Networks::First => Ok(Joined::default()),
        },
        Err(error) => Err(failed(error)),
    }
}

/// The root filesystem of a container: a shared directory below a part of the
/// writable disk.
pub(crate) fn rootfs(lower: &str) -> Rootfs {
    Rootfs {
        lower: lower.to_owned(),
        ..layered(Vec::new())
    }
}

/// The root filesystem of a container: a shared directory, as it is.
pub(crate) fn directory(name: &str) -> Rootfs {
    Rootfs {
        share: SHARE.to_owned(),
        directory: name.to_owned(),
        ..Default::default()
    }
}

/// The root filesystem of a container: shared files that are EROFS layers, bottom to
/// top, below a part of the writable disk.
pub(crate) fn layered(files: Vec<String>) -> Rootfs {
    Rootfs {
        share: SHARE.to_owned(),
        files,
        writable: Some(disk(WRITABLE)).into(),
        ..Default::default()
    }
}

/// The root filesystem of a container: a disk with a file system, as it is, or,
/// read-only, below a part of the writable one.
pub(crate) fn disk_rootfs(serial: &str, filesystem: &str, read_only: bool) -> Rootfs {
    let own = RootDisk {
        at: Some(disk(serial)).into(),
        filesystem: filesystem.to_owned(),
        read_only,
        ..Default::default()
    };
    Rootfs {
        disk: Some(own).into(),
        writable: read_only.then(|| disk(WRITABLE)).into(),
        ..Default::default()
    }
}

/// A whole disk, by its serial.
pub(crate) fn disk(serial: &str) -> BlockRef {
    BlockRef {
        serial: serial.to_owned(),
        ..Default::default()
    }
}

//! From a record to what a sandbox is started with: files, disks, network.

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use bulkhead_hypervisor::{BootImage, Disk, DiskSource, Extent, Spare, SpareDisks, VmConfig};
use bulkhead_image::disk::{self, Piece};
use bulkhead_image::{LayerFile, Lease, Store};
use bulkhead_provision::monitor::{self, Monitor};
use bulkhead_provision::{Helper, guest, seccomp, user, writable};
use bulkhead_sandbox::{
    BlockRef, ContainerConfig, GuestConfig, Rootfs, SandboxConfig, StdioConfig,
};
use rustix::fs::MemfdFlags;

use super::network;
use super::volumes::{self, Shares};
use crate::report;
use crate::state::record::RootfsSource;
use crate::state::{ContainerDir, Record};
use bulkhead_control::Failure;

/// Serials of the two disks, by which the guest finds them.
const LAYERS: &str = "layers";
const WRITABLE: &str = "writable";

/// How long each phase of the start may take by default, seconds.
const START_TIMEOUT: u64 = 60;

/// Everything a start needs beside the monitor.
pub(super) struct Plan {
    pub(super) sandbox: SandboxConfig,
    pub(super) container: ContainerConfig,
    pub(super) resources: Resources,
}

/// What has to live as long as the sandbox.
pub(super) struct Resources {
    _lease: Option<Lease>,
    _namespace: Option<bulkhead_network::Guard>,
    /// Processes without which the sandbox cannot go on.
    pub(super) helpers: Vec<Helper>,
}

/// Prepares a start. Nothing outlives a failure: descriptors close, helpers
/// die, the writable layer's file goes with the container's directory.
pub(super) fn plan(record: &Record, dir: &ContainerDir) -> Result<(Monitor, Plan), Failure> {
    // The processor is probed while the rest is made; that runs on this thread,
    // because helpers die with the thread that starts them.
    std::thread::scope(|scope| {
        let monitor = scope.spawn(|| monitor::open(&record.accel).map_err(chained));
        let prepared = prepare(record, dir);
        let monitor = monitor
            .join()
            .unwrap_or_else(|_| Err(failure("the search for a monitor panicked")));
        // Without a monitor nothing else matters.
        Ok((monitor?, prepared?))
    })
}

fn prepare(record: &Record, dir: &ContainerDir) -> Result<Plan, Failure> {
    let (kernel, initramfs) = guest::open(&record.kernel, None).map_err(chained)?;
    // The file servers close themselves in while the rest is prepared.
    let mut shares = Shares::start(&record.volumes, dir).map_err(failure)?;
    let Root {
        disks,
        rootfs,
        lease,
    } = root(record, dir, &mut shares)?;
    let network = network::plan(record)?;
    shares.ready().map_err(failure)?;
    let sandbox = SandboxConfig {
        vm: VmConfig {
            boot: BootImage {
                kernel,
                initramfs,
                cmdline: Vec::new(),
            },
            vcpus: record.vcpus,
            memory: record.memory,
            // Nobody can ask a single container's machine to grow.
            spare: Spare::default(),
            disks,
            nets: network.devices,
            shares: shares.devices,
            spare_disks: SpareDisks::default(),
            user: user::of(&record.id),
        },
        guest: GuestConfig {
            hostname: record.hostname.clone(),
            extra_hosts: record.extra_hosts.clone(),
            ..network.guest
        },
        timeout: Duration::from_secs(start_timeout()),
    };
    let container = ContainerConfig {
        id: record.id.clone(),
        spec: record.spec.clone(),
        rootfs,
        volumes: shares.volumes,
        devices: Vec::new(),
        memory_volumes: Vec::new(),
        user: record.user.clone(),
        seccomp: seccomp::program(&record.spec).map_err(chained)?,
        stdio: StdioConfig {
            stdin: record.interactive,
            terminal: record.terminal,
            size: None,
        },
    };
    let resources = Resources {
        _lease: lease,
        _namespace: network.guard,
        helpers: shares.helpers.into_iter().chain(network.helper).collect(),
    };
    Ok(Plan {
        sandbox,
        container,
        resources,
    })
}

fn failure(text: impl Into<String>) -> Failure {
    Failure {
        exit_code: 125,
        text: text.into(),
    }
}

fn chained(error: impl std::error::Error + 'static) -> Failure {
    failure(report::chain(&error))
}

fn start_timeout() -> u64 {
    let said = std::env::var("BULKHEAD_START_TIMEOUT")
        .ok()
        .and_then(|text| text.parse().ok());
    said.filter(|seconds| (1..=3600).contains(seconds))
        .unwrap_or(START_TIMEOUT)
}

struct Root {
    disks: Vec<Disk>,
    rootfs: Rootfs,
    lease: Option<Lease>,
}

fn root(record: &Record, dir: &ContainerDir, shares: &mut Shares) -> Result<Root, Failure> {
    let (id, store) = match &record.rootfs {
        RootfsSource::Image { id, store, .. } => (id, store),
        RootfsSource::Directory(path) => {
            shares.start_root(path, dir).map_err(failure)?;
            let rootfs = Rootfs {
                share: volumes::ROOT_TAG.to_owned(),
                ..Default::default()
            };
            return Ok(Root {
                disks: Vec::new(),
                rootfs,
                lease: None,
            });
        }
    };
    let store = Store::open(store).map_err(chained)?;
    let lease = store.lease(id).map_err(chained)?;
    let image = store.get(id).map_err(chained)?;
    let layers = store.open_layers(&image).map_err(chained)?;
    let count = u32::try_from(layers.len()).map_err(chained)?;
    let partition = |number| BlockRef {
        serial: LAYERS.to_owned(),
        partition: number,
        ..Default::default()
    };
    let disks = vec![
        Disk {
            serial: LAYERS.to_owned(),
            source: layers_disk(layers).map_err(chained)?,
            read_only: true,
        },
        Disk {
            serial: WRITABLE.to_owned(),
            source: DiskSource::File(
                writable::make(&dir.file("writable.img"), record.storage).map_err(chained)?,
            ),
            read_only: false,
        },
    ];
    let writable = BlockRef {
        serial: WRITABLE.to_owned(),
        partition: 0,
        ..Default::default()
    };
    let rootfs = Rootfs {
        layers: (1..=count).map(partition).collect(),
        writable: Some(writable).into(),
        writable_bytes: record.storage,
        ..Default::default()
    };
    Ok(Root {
        disks,
        rootfs,
        lease: Some(lease),
    })
}

/// One disk of all layers, each a partition.
fn layers_disk(layers: Vec<LayerFile>) -> std::io::Result<DiskSource> {
    let sizes: Vec<u64> = layers.iter().map(|layer| layer.size).collect();
    let pieces = disk::layout(&sizes)
        .ok_or_else(|| std::io::Error::other("the image's layers do not fit a disk"))?;
    let mut files: Vec<Option<OwnedFd>> =
        layers.into_iter().map(|layer| Some(layer.file)).collect();
    let mut extents = Vec::new();
    for piece in pieces {
        extents.push(match piece {
            Piece::Bytes(bytes) => Extent {
                length: bytes.len() as u64,
                file: memory_file(&bytes)?,
            },
            Piece::Layer(index) => Extent {
                length: sizes[index],
                file: files[index]
                    .take()
                    .ok_or_else(|| std::io::Error::other("a layer twice"))?,
            },
        });
    }
    Ok(DiskSource::Concat(extents))
}

/// Bytes as a file that can only be read.
fn memory_file(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let mut file = std::fs::File::from(rustix::fs::memfd_create("gpt", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(std::fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.into())
}

//! What a machine is made of. Files come as open descriptors, never as paths:
//! the monitor needs no right to open anything.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// Everything a backend needs to start a machine.
#[derive(Debug)]
pub struct VmConfig {
    /// What the machine boots.
    pub boot: BootImage,
    /// Virtual processors, at least one.
    pub vcpus: u32,
    /// Guest memory, bytes; a multiple of 1 MiB.
    pub memory: u64,
    /// What the machine has beside these, and the guest leaves alone until its agent
    /// is told to take it.
    pub spare: Spare,
    /// Disks, in the order the guest sees them.
    pub disks: Vec<Disk>,
    /// Room for disks that are plugged in while it runs.
    pub spare_disks: SpareDisks,
    /// Network interfaces.
    pub nets: Vec<NetDevice>,
    /// Host directories served by a vhost-user file server.
    pub shares: Vec<ShareDevice>,
    /// User and group the monitor runs as; `None` keeps the caller's.
    pub user: Option<(u32, u32)>,
}

/// What a guest may take while it runs. Its kernel keeps to that, not the monitor:
/// what bounds a hostile one is its control group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spare {
    /// Virtual processors.
    pub vcpus: u32,
    /// Bytes; a multiple of [`MEMORY_BLOCK`](crate::MEMORY_BLOCK).
    pub memory: u64,
}

/// Memory is taken in blocks of this size, bytes, at its multiples: a section of
/// x86's sparse memory (`SECTION_SIZE_BITS`).
pub const MEMORY_BLOCK: u64 = 128 << 20;

/// Kernel, initramfs and what is said to the kernel.
#[derive(Debug)]
pub struct BootImage {
    /// Kernel image, opened read-only.
    pub kernel: OwnedFd,
    /// Initramfs, opened read-only.
    pub initramfs: OwnedFd,
    /// Further words of the kernel command line, from our own code only.
    pub cmdline: Vec<String>,
}

/// A virtio-blk disk.
#[derive(Debug)]
pub struct Disk {
    /// What the guest finds it by, `/sys/block/*/serial`; at most 20 ASCII
    /// letters, digits and `-`.
    pub serial: String,
    /// What is on it.
    pub source: DiskSource,
    /// The guest cannot write; the descriptors are read-only too.
    pub read_only: bool,
}

/// The bytes of a disk. Always raw: no format is ever guessed.
#[derive(Debug)]
pub enum DiskSource {
    /// One file.
    File(OwnedFd),
    /// Several files, one behind the other; read-only disks only.
    Concat(Vec<Extent>),
}

/// How many disks can be plugged in at a time; see
/// [`Vm::plug`](crate::Vm::plug).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpareDisks {
    /// Disks the guest can write.
    pub writable: usize,
    /// Disks it can only read.
    pub read_only: usize,
}

/// A piece of a [`DiskSource::Concat`] disk.
#[derive(Debug)]
pub struct Extent {
    /// File whose first `length` bytes are meant.
    pub file: OwnedFd,
    /// Bytes; a multiple of 512.
    pub length: u64,
}

/// A virtio-net interface.
#[derive(Debug)]
pub struct NetDevice {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Largest packet, bytes.
    pub mtu: u16,
    /// Where its packets go.
    pub backend: NetBackend,
}

/// Where packets go.
#[derive(Debug)]
pub enum NetBackend {
    /// A stream socket carrying frames, each behind its length in 32 bits
    /// big-endian (QEMU's `stream` netdev, passt's protocol).
    Stream(OwnedFd),
    /// The queues of a tap device, opened with `IFF_VNET_HDR`; at least one.
    Tap(Vec<OwnedFd>),
}

/// A virtio-fs device.
#[derive(Debug)]
pub struct ShareDevice {
    /// What the guest mounts it by; at most 36 ASCII letters and digits.
    pub tag: String,
    /// Connected vhost-user socket of the file server.
    pub socket: UnixStream,
}

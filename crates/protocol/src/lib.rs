//! What host and guest say to each other.
//!
//! One byte channel joins a sandbox to its agent (a virtio-serial port with
//! the QEMU backend). [`mux`] carries many flow-controlled streams over it.
//! Stream one is the ttrpc control connection ([`agent`]); every other stream
//! opens with a [`stream::Header`] that says whose bytes follow.
//!
//! ```text
//!   host                         channel                      guest
//!   ttrpc client  ── control ──┐         ┌── control ── ttrpc server
//!   stdin pump    ── stream ───┤ yamux   ├── stream ─── pipe or pty
//!   stdout pump   ── stream ───┤ frames  ├── stream ─── pipe or pty
//!                              └─────────┘
//! ```
//!
//! The guest is not trusted: the host bounds every length it reads here.

pub mod datagram;
pub mod mux;
pub mod name;
pub mod stream;

/// Messages generated from `proto/agent.proto`.
#[allow(
    warnings,
    missing_docs,
    clippy::all,
    clippy::unwrap_used,
    unreachable_pub
)]
pub mod agent {
    include!(concat!(env!("OUT_DIR"), "/agent.rs"));
}

/// Client and server of the ttrpc service in `proto/agent.proto`.
#[allow(
    warnings,
    missing_docs,
    clippy::all,
    clippy::unwrap_used,
    unreachable_pub
)]
pub mod agent_ttrpc {
    include!(concat!(env!("OUT_DIR"), "/agent_ttrpc.rs"));
}

/// Version of the protocol. Another major number is refused by both sides;
/// a higher minor number only adds.
pub const VERSION: (u32, u32) = (4, 0);

/// The agent takes memory in blocks of this size, bytes, at its multiples: a section
/// of x86's sparse memory (`SECTION_SIZE_BITS`).
pub const MEMORY_BLOCK: u64 = 128 << 20;

/// Name of the virtio-serial port the agent opens,
/// `/sys/class/virtio-ports/*/name` in the guest.
pub const CHANNEL_PORT: &str = "bulkhead.agent";

/// The byte the agent writes first on the channel, before any frame: tells
/// the host to the microsecond when the guest's userspace runs.
pub const READY: u8 = 0xB7;

/// Where in the guest the tmpfs is that a pod's containers share as
/// `/dev/shm`; a bind mount of a spec may name it as its source.
pub const SHARED_MEMORY: &str = "/run/sandbox/shm";

/// A spec's process namespace with this path is the one the pod's containers
/// share; the agent makes it for the first that asks.
pub const SHARED_PIDS: &str = "/run/sandbox/pids";

/// A spec's process namespace with a path in this directory is the one of the
/// container of that name.
pub const CONTAINER_PIDS: &str = "/run/sandbox/pids-of";

/// Largest OCI spec either side accepts, bytes of JSON.
pub const SPEC_LIMIT: usize = 4 << 20;

//! A sandbox: one virtual machine, its agent, its containers.
//!
//! The composer takes a [`Hypervisor`](bulkhead_hypervisor::Hypervisor) and
//! data; it names no backend and touches no host path. Whoever calls it (the
//! command line's supervisor, a containerd shim) decides where disks, shares
//! and networks come from.
//!
//! ```text
//!           launch            READY byte           hello, configure
//!   config ───────▶ monitor ───────────▶ userspace ────────────────▶ Sandbox
//!              │          │                  │
//!              └──────────┴─ any failure ────┴──▶ StartError: phase, reason,
//!                                                 last console lines, hint
//! ```

mod agent;
mod disks;
mod error;
mod start;

pub use agent::{
    AgentError, Container, ContainerConfig, ExecConfig, Exit, HostStdio, ReadStream, StdioConfig,
    WriteStream,
};
pub use disks::DiskError;
pub use error::{Phase, StartError};
pub use start::{GuestConfig, Hello, Sandbox, SandboxConfig, Timing};

pub use bulkhead_protocol::agent::{
    Archive, BlockRef, Device, Directory, Disk as RootDisk, DiskUsage, Group, Interface,
    InterfaceStats, MemoryVolume, Network, Rootfs, StatsResponse as Stats, Volume,
};

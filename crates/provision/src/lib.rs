//! What a sandbox needs from its host, ready to be handed over: a monitor, a
//! guest to boot, a disk to write on, file servers, the network.
//!
//! The command line's supervisor and the containerd shim both stand on this,
//! so that a pod and a `bulkhead run` are closed in by the same rules. Nothing
//! here knows containers; each part gives itself back when it is dropped.
//!
//! ```text
//!   monitor::open ─▶ a hypervisor          share::Server ─▶ device + helper
//!   guest::open ───▶ kernel, initramfs     network::join ─▶ devices + guest's view
//!   writable::make ▶ a disk                seccomp::program ▶ BPF
//!   scope::tell ───▶ systemd's scope       settle::soon ────▶ memory back
//!   block::device, block::image ▶ what becomes a disk of a running machine
//!   direct::find ─▶ a volume that is a disk
//! ```

pub mod block;
pub mod direct;
mod error;
pub mod guest;
pub mod helper;
mod kept;
pub mod monitor;
pub mod network;
pub mod scope;
pub mod seccomp;
pub mod settle;
pub mod share;
pub mod user;
pub mod writable;

pub use error::{Error, chain};
pub use helper::Helper;

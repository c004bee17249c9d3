//! The file server of one volume or one pod: virtiofs over vhost-user, closed in on what
//! it serves.
//!
//! The protocol and the file system are the `virtiofsd` library's; this crate
//! adds what makes it safe to give to hostile guests: the process sees nothing
//! of the host but the shared tree (the `enclosure` module), holds no privilege that
//! reaches beyond it, and ends with the monitor. One process serves one
//! volume, so that one broken server opens one volume; the one of a [`Pod`]
//! serves what its containers were given, and nothing else.
//!
//! ```text
//!  supervisor ──Order (stdin), descriptors──▶ serve ──"ready"──▶ supervisor
//!                                               ▲
//!                     guest memory, vhost-user  │
//!                     monitor ◀─────────────────┘
//! ```

mod enclosure;
mod order;
mod pod;
mod server;

pub use order::{FileIdentity, Order, READY, Tree};
pub use pod::{Detached, Pod, PodError};
pub use server::{Error, serve};

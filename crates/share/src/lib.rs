//! The file server of one volume: virtiofs over vhost-user, closed in on what
//! it serves.
//!
//! The protocol and the file system are the `virtiofsd` library's; this crate
//! adds what makes it safe to give to hostile guests: the process sees nothing
//! of the host but the shared tree (the `enclosure` module), holds no privilege that
//! reaches beyond it, and ends with the monitor. One process serves one
//! volume, so that one broken server opens one volume.
//!
//! ```text
//!  supervisor ──Order (stdin), descriptors──▶ serve ──"ready"──▶ supervisor
//!                                               ▲
//!                     guest memory, vhost-user  │
//!                     monitor ◀─────────────────┘
//! ```

mod enclosure;
mod order;
mod server;

pub use order::{FileIdentity, Order, READY};
pub use server::{Error, serve};

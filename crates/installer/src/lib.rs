//! Installs Bulkhead on one machine, checks it, and takes it away again.
//!
//! ```text
//!   payload ──stage, sync, rename──▶ /opt/bulkhead/versions/V
//!   handlers ─render, validate─────▶ the runtime's configuration ──restart──▶ smoke test
//!        every step is in /opt/bulkhead/state.json before it is done
//! ```
//!
//! Everything is below a root that is given, so that a container that sees
//! the machine's files elsewhere, and a test, run the same code.

pub mod block;
pub mod config;
pub mod cri;
pub mod handler;
mod in_use;
mod install;
mod node;
pub mod payload;
mod places;
pub mod podman;
pub mod preflight;
pub mod runtime;
pub mod seams;
mod state;
pub mod systemd;
#[cfg(test)]
#[path = "../tests/support/payload.rs"]
mod testing;
pub mod tree;
mod uninstall;
mod verify;
pub mod version;

pub use in_use::User;
pub use install::{Report, Wish};
pub use node::{Error, Node, Step, chain};
pub use state::StateError;
pub use uninstall::Removal;
pub use verify::{Status, Verdict, Verification, VersionStatus};

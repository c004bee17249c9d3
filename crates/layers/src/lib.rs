//! The layers of overlayfs snapshots as EROFS images, kept for the next
//! container of the same image.
//!
//! ```text
//!   …/snapshots/17/fs ── Identity ──▶ Cache::find ──▶ an open image, to be shared
//!          │                              ▲
//!          └── pack (idle, later) ── Cache::make
//! ```
//! A guest reads an image some ten times faster than a shared directory
//! (docs/design/0013-layers-of-pods.md). A layer is known by the directory it
//! is: its snapshotter never changes one that others stand on. Nothing of a
//! layer is trusted: it is read by descriptors, no link is followed, and
//! what it holds is bounded.

mod cache;
mod error;
mod identity;
mod pack;

pub use cache::{Cache, Found, Made};
pub use error::Error;
pub use identity::Identity;
pub use pack::Bounds;

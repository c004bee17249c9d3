//! OCI images: sources, verification, and the store of EROFS layers.
//!
//! ```text
//!   reference ─▶ source ─▶ index, manifest, config ─▶ for each layer not in the store:
//!   (layout, archive,      (verified, bounded)        blob ─ digest ─▶ unzip ─ diffID ─▶ tar
//!                                                     ─▶ layer rules ─▶ EROFS, under its diffID
//! ```
//!
//! Everything read from a source is untrusted: digests and sizes are verified, lengths and counts
//! bounded, and no name of an image is ever used on the host's filesystem.

pub mod disk;
mod error;
mod layer;
mod reference;
mod registry;
mod source;
mod store;
mod verify;

pub use error::{Error, Result};
pub use layer::LayerLimits;
pub use reference::ImageRef;
pub use store::{Image, LayerFile, Lease, Progress, PullOptions, Store};

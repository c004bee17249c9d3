//! Writes EROFS images from a stream of entries.
//!
//! EROFS is the kernel's read-only filesystem for images. This crate writes
//! the uncompressed subset that a sandbox boots from: 4 KiB blocks, extended
//! inodes, inline extended attributes, small files inside their inode, and
//! chunk-based inodes for sparse files. The bytes of an image depend only on
//! the calls made, never on the clock, the host or a random number.
//!
//! ```text
//!   block 0     1 …             …                  …
//!   superblock │ file data, in  │ directories that │ inodes, each with its
//!              │ order of calls │ outgrew an inode │ xattrs and small data
//! ```
//!
//! File data goes straight to the image as it is read; only metadata is kept
//! in memory, and that is bounded by [`Limits`]. No name, symlink or device of
//! an image ever touches the host's own filesystem.
//!
//! Source of the format: `fs/erofs/erofs_fs.h` and
//! `Documentation/filesystems/erofs.rst` of Linux.

mod attributes;
mod data;
mod directory;
mod error;
mod format;
mod inode;
mod tree;
mod writer;
mod xattr;

pub use attributes::{Attributes, Content, Device, Timestamp, Xattrs};
pub use data::{Extent, FileData};
pub use error::{Error, Result};
pub use format::{BLOCK_SIZE, NAME_MAX};
pub use tree::NodeId;
pub use writer::{Limits, Summary, Writer};

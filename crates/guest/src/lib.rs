//! Builds, keeps and finds what a sandbox boots: a kernel, an initramfs holding the agent, and a
//! manifest naming both by digest.
//!
//! [`build`] makes a guest from Debian packages and an agent binary and keeps it in a [`Cache`]
//! outside any source tree; [`Cache::find`] picks one to boot and [`Guest::open`] hands out its
//! files, read-only. Two kinds of kernel exist, see [`KernelKind`].
//!
//! Everything is keyed by a digest of its inputs: the same inputs are never built twice, and an
//! agent that changed costs a new initramfs but no new kernel.
//!
//! ```text
//!   packages ─▶ kernel (tuned: compiled; distro: unpacked) ─┐
//!   agent ─────────────────────────────▶ initramfs ─────────┴─▶ guest: kernel, initramfs, manifest
//! ```

mod build;
mod cache;
pub mod cpio;
mod digest;
mod distro;
mod elf;
mod error;
mod initramfs;
pub mod kconfig;
mod manifest;
mod package;
mod process;
mod progress;
mod tuned;

pub use build::{BuildOptions, HostKernel, build, host_kernel};
pub use cache::{Cache, Guest, Preference};
pub use digest::Sha256;
pub use elf::pvh_entry;
pub use error::{Error, Result};
pub use manifest::{FileRecord, KernelKind, Manifest};
pub use progress::{Phase, Progress};

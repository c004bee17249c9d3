//! Seccomp profiles to OCI form, and OCI form to BPF programs.
//!
//! Both happen on the host: the guest only loads bytes, which keeps a library
//! and its tables out of the agent, and the work out of the guest's slower
//! first moments. libseccomp(3) makes the program.
//!
//! `data/default.json` is containers-common's default profile (Apache-2.0,
//! the Containers project), so that a machine without Podman filters the
//! same.

mod compile;
mod profile;

pub use compile::{compile, fingerprint};
pub use profile::Profile;

/// containers-common's default profile, JSON.
pub const DEFAULT_PROFILE: &[u8] = include_bytes!("../data/default.json");

/// What is wrong with a profile or filter.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON, or not of this form.
    #[error("the seccomp profile is malformed")]
    Malformed(#[source] serde_json::Error),
    /// Larger than any sane one.
    #[error("the seccomp profile is too large: {0}")]
    TooLarge(String),
    /// An action or operator that cannot be done here.
    #[error("the seccomp profile uses `{0}`, which is not supported")]
    Unsupported(String),
    /// No memory file could be had.
    #[error("the seccomp filter could not be written to memory")]
    Memory(#[source] std::io::Error),
    /// libseccomp refused.
    #[error("the seccomp filter could not be compiled")]
    Compile(#[source] libseccomp::error::SeccompError),
}

//! What a build tells while it runs.

use std::fmt;

/// What a build is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Another process builds the same kind of guest; this one waits for it.
    Wait,
    /// Packages are looked up and downloaded.
    Download,
    /// Packages and sources are unpacked.
    Unpack,
    /// The kernel's options are set and checked.
    Configure,
    /// The kernel is compiled.
    Compile,
    /// Kernel modules are gathered.
    Modules,
    /// The initramfs is written.
    Initramfs,
    /// Files are synced and published.
    Publish,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Wait => "waiting for another build",
            Phase::Download => "downloading packages",
            Phase::Unpack => "unpacking",
            Phase::Configure => "configuring the kernel",
            Phase::Compile => "compiling the kernel",
            Phase::Modules => "gathering modules",
            Phase::Initramfs => "writing the initramfs",
            Phase::Publish => "publishing",
        })
    }
}

/// Receives what a build does. Called often; rate-limit what you print.
pub trait Progress {
    /// `phase` has come to `done` steps of about `total`; a `total` of 0 means nobody knows.
    fn update(&mut self, phase: Phase, done: u64, total: u64);
}

/// For those who do not want to know.
impl Progress for () {
    fn update(&mut self, _: Phase, _: u64, _: u64) {}
}

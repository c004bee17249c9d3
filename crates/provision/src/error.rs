//! Why a part could not be had.

use std::path::PathBuf;

/// What is missing, and the way out where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable monitor.
    #[error(transparent)]
    Monitor(#[from] bulkhead_hypervisor::Error),
    /// KVM was demanded and is of no use here.
    #[error(transparent)]
    Kvm(#[from] bulkhead_sys::kvm::Unusable),
    /// No guest to boot.
    #[error(transparent)]
    Guest(#[from] bulkhead_guest::Error),
    /// The network namespace could not be joined.
    #[error(transparent)]
    Network(#[from] bulkhead_network::Error),
    /// The system call filter is wrong.
    #[error(transparent)]
    Seccomp(#[from] bulkhead_seccomp::Error),
    /// A block device could not be opened.
    #[error("the block device {major}:{minor} of the host cannot be opened")]
    Device {
        /// Its driver.
        major: u32,
        /// Which of the driver's.
        minor: u32,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// An image could not be opened.
    #[error("the image `{}` cannot be opened", path.display())]
    Image {
        /// Where it is.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// It is something else.
    #[error("`{}` is no block device and no regular file", .0.display())]
    NoImage(PathBuf),
    /// Somebody else writes to a volume that is to be a disk.
    #[error("it is in use: mounted on this host, or a disk of another machine")]
    Claimed(#[source] std::io::Error),
    /// A volume that is to be a disk is not described as one can be.
    #[error("the volume `{}` cannot be a disk: {why}", path.display())]
    Volume {
        /// Where the volume is for the host.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Its description cannot be read or written.
    #[error("the description of the volume `{}` cannot be {what}", path.display())]
    Description {
        /// Where the volume is for the host.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// The writable layer's file could not be made.
    #[error("the writable layer cannot be made")]
    Writable(#[source] std::io::Error),
    /// The program that formats it is missing.
    #[error("`mke2fs` did not start; install it: `apt install e2fsprogs`")]
    Formatter(#[source] std::io::Error),
    /// The program that formats it refused.
    #[error(
        "the writable layer could not be formatted (is its size, `--storage`, too small?): {0}"
    )]
    Format(String),
    /// A file server did not start.
    #[error("the file server of `{}` did not start", path.display())]
    Share {
        /// What it was to serve.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// A file server did not come up.
    #[error("{name} failed: {said}")]
    Server {
        /// Which.
        name: String,
        /// Its last words.
        said: String,
    },
}

/// An error with its causes, in one line each joined by colons.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let next = source.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = source.source();
    }
    text
}

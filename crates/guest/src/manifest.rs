//! What a built guest says of itself.

use serde::{Deserialize, Serialize};

use crate::Sha256;

/// Format of the manifest; another number is refused.
pub(crate) const FORMAT: u32 = 1;

/// Where a kernel comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelKind {
    /// Compiled from Debian's linux-source with only what pods need, no modules.
    Tuned,
    /// Debian's cloud kernel with the modules a sandbox needs: there within a minute.
    Distro,
}

impl KernelKind {
    /// "tuned" or "distro".
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tuned => "tuned",
            Self::Distro => "distro",
        }
    }
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Size in bytes.
    pub size: u64,
    /// Digest of its content.
    pub sha256: Sha256,
}

/// What a guest is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always 1 so far.
    pub format: u32,
    /// Where the kernel comes from.
    pub kind: KernelKind,
    /// Debian package and version of the kernel or its source.
    pub source: String,
    /// Digest of the kernel options asked for; of nothing for [`KernelKind::Distro`].
    pub options: Sha256,
    /// Digest of the agent.
    pub agent: Sha256,
    /// The kernel image.
    pub kernel: FileRecord,
    /// The initramfs.
    pub initramfs: FileRecord,
}

//! The guest to boot.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use bulkhead_guest::{Cache, KernelKind, Preference};

use crate::Error;

/// Opens kernel and initramfs read-only: "tuned", "distro", or whatever is
/// there. `cache` is the directory of built guests; none: the default one.
///
/// # Errors
/// [`Error::Guest`] when none was built.
pub fn open(kind: &str, cache: Option<PathBuf>) -> Result<(OwnedFd, OwnedFd), Error> {
    let preference = match kind {
        "tuned" => Preference::Only(KernelKind::Tuned),
        "distro" => Preference::Only(KernelKind::Distro),
        _ => Preference::Auto,
    };
    let found = match cache {
        Some(root) => Cache::open(&root)?.find(preference)?,
        None => Cache::find_default(preference)?,
    };
    Ok(found.open()?)
}

//! Between specs and the seccomp crate.

use oci_spec::runtime::{Capability, LinuxSeccomp, Process};

/// The filter every ordinary container gets.
pub(crate) fn default(process: &Process) -> Result<LinuxSeccomp, String> {
    profile(bulkhead_seccomp::DEFAULT_PROFILE, process)
}

/// A profile in containers-common's or Docker's format, for a process.
pub(crate) fn profile(text: &[u8], process: &Process) -> Result<LinuxSeccomp, String> {
    let set = process
        .capabilities()
        .as_ref()
        .and_then(|sets| sets.bounding().clone());
    let capabilities: Vec<Capability> = set.unwrap_or_default().into_iter().collect();
    let profile = bulkhead_seccomp::Profile::parse(text).map_err(|e| crate::report::chain(&e))?;
    profile
        .resolve(&capabilities)
        .map_err(|e| crate::report::chain(&e))
}

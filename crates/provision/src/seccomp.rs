//! The system call filter of a spec.

use oci_spec::runtime::Spec;

use crate::Error;

/// The program of a spec's filter; empty without one.
///
/// # Errors
/// [`Error::Seccomp`] for a filter that cannot be compiled.
pub fn program(spec: &Spec) -> Result<Vec<u8>, Error> {
    let linux = spec.linux().as_ref();
    match linux.and_then(|linux| linux.seccomp().as_ref()) {
        Some(filter) => Ok(bulkhead_seccomp::compile(filter)?),
        None => Ok(Vec::new()),
    }
}

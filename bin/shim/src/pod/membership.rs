//! Whether a container is this pod's.
//!
//! Which pod it is of is said by annotations, and CRI-O lets a pod's author write
//! some of its own: one could name somebody else's pod. In which control group a
//! container belongs is the kubelet's word. Of an OCI runtime's callers nobody is
//! believed: whose machine it is is looked up before this process hears of it.

use std::path::PathBuf;

use bulkhead_bundle::Kind;
use bulkhead_sys::cgroup;
use oci_spec::runtime::Spec;

use super::{Caller, Pod};
use crate::failure::{Failure, Outcome};

/// The control group of the pod a container or a pod belongs to.
pub(super) fn group(spec: &Spec) -> Outcome<Option<PathBuf>> {
    match bulkhead_bundle::cgroup(spec) {
        Some(path) => cgroup::parent(&path).map_err(|error| Failure::from_error(&error)),
        None => Ok(None),
    }
}

impl Pod {
    /// Refuses a container of another pod. Where the pod itself has no group above
    /// its own, nothing can be told from it.
    pub(super) fn refuse_stranger(&self, kind: &Kind, spec: &Spec) -> Outcome<()> {
        let Kind::Member { pod } = kind else {
            return Ok(());
        };
        let own = self.lock().group.clone();
        let known = self.caller == Caller::Runtime || own.is_none();
        if *pod == self.id && (known || own == group(spec)?) {
            return Ok(());
        }
        Err(Failure::invalid(format!(
            "the container is said to be of the pod `{}`, and its control group is another pod's; \
             does its pod have annotations of a container manager?",
            self.id
        )))
    }
}

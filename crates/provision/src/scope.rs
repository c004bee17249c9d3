//! Where systemd looks after the host's control groups, it is told which are a
//! machine's: one it does not know loses its controllers, and what they account for,
//! whenever systemd is reloaded.

use std::path::Path;

use bulkhead_sys::cgroup;
use bulkhead_systemd::{Scope, Systemd};

use crate::chain;

/// Lets systemd look after a control group that is there, as the scope an OCI spec
/// names for it, with one process of it. Nothing happens where the group is none of
/// systemd's, or the host has no systemd. The group is there whatever systemd says, so
/// that a failure is a warning.
pub async fn tell(group: &str, description: &str, process: u32) {
    let root = Path::new("/");
    let Some((slice, name)) = cgroup::scope(group).filter(|_| Systemd::runs(root)) else {
        return;
    };
    let scope = Scope {
        slice,
        name,
        description: description.to_owned(),
    };
    let told = Systemd::of(root).look_after(&scope, &[process]).await;
    if let Err(error) = told {
        tracing::warn!(
            group,
            error = chain(&error),
            "systemd does not look after the control group"
        );
    }
}

//! Places for mounts on a root filesystem that is only read.
//!
//! The guest makes them where they are missing, as any OCI runtime does; where it is
//! not let write, that is done here.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bulkhead_sys::rooted::Rooted;
use oci_spec::runtime::{Mount, Spec};

use crate::failure::{Failure, Outcome};

/// Mounts of one container at most; the guest takes no more.
const MOUNT_LIMIT: usize = 1024;

/// Makes those the spec needs and the root does not have.
pub(crate) fn make(root: OwnedFd, spec: &Spec) -> Outcome<()> {
    let root = Rooted::new(root);
    let mut covered: Vec<PathBuf> = Vec::new();
    for mount in spec.mounts().iter().flatten().take(MOUNT_LIMIT) {
        let target = mount.destination();
        // What is mounted on another mount has its place there.
        let below = |above: &PathBuf| target != above && target.starts_with(above);
        if !covered.iter().any(below) {
            make_one(&root, mount, target)?;
        }
        covered.push(target.clone());
    }
    Ok(())
}

fn make_one(root: &Rooted, mount: &Mount, target: &Path) -> Outcome<()> {
    let source = mount.source().as_deref();
    let file = bulkhead_bundle::is_bind(mount) && source.is_some_and(|source| !source.is_dir());
    let made = match file {
        true => root.make_file(target),
        false => root.make_dir(target),
    };
    made.map(drop).map_err(|error| {
        Failure::invalid(format!(
            "the root filesystem, which is only read, has no place for the mount on `{}`, and \
             none can be made: {error}",
            target.display()
        ))
    })
}

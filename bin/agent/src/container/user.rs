//! Who a process runs as: the spec's ids, or a name looked up in the image.

use std::io::Read;
use std::path::Path;

use oci_spec::runtime::Process;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::accounts::{self, FILE_LIMIT, Identity, Unknown};
use super::error::{Error, Result};

/// The identity and its home directory. Runs inside the container's root.
pub(super) fn resolve(process: &Process, name: Option<&str>) -> Result<(Identity, String)> {
    let passwd = read("/etc/passwd");
    let mut identity = match name {
        Some(name) => accounts::resolve(name, &passwd, &read("/etc/group")).map_err(|unknown| {
            Error::invalid(match unknown {
                Unknown::User(user) => {
                    format!("the image knows no user `{user}`: it is not in its /etc/passwd")
                }
                Unknown::Group(group) => {
                    format!("the image knows no group `{group}`: it is not in its /etc/group")
                }
            })
        })?,
        None => Identity {
            uid: process.user().uid(),
            gid: process.user().gid(),
            groups: Vec::new(),
        },
    };
    identity
        .groups
        .extend(process.user().additional_gids().iter().flatten());
    let home = accounts::home(identity.uid, &passwd)
        .unwrap_or("/")
        .to_owned();
    Ok((identity, home))
}

/// A file of the image, as far as it goes: a missing or odd one is empty.
fn read(path: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let root = rustix::fs::CWD;
    let opened = rustix::fs::openat2(
        root,
        Path::new(path),
        flags,
        Mode::empty(),
        ResolveFlags::NO_MAGICLINKS,
    );
    let Ok(fd) = opened else { return String::new() };
    let file = std::fs::File::from(fd);
    // A fifo or device in its place would never end.
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return String::new();
    }
    let mut bytes = Vec::new();
    let _ = file.take(FILE_LIMIT).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

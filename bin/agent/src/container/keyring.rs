//! A session keyring for each container, so that keys its processes add are
//! found by no other's. keyrings(7), session-keyring(7).

use std::ffi::CString;

use rustix::io::Errno;

use super::error::{Error, Result, Tried};
use super::syscalls;

/// What the kernel gives the one who has a new session keyring, and the right
/// of its owner to find it by name. linux/keyctl.h.
const OWNERS: u32 = 0x3f1b_0000;

/// Anybody may find it by name: in a user namespace a further process comes
/// from outside with another uid.
const OTHERS_SEARCH: u32 = 0x8;

/// Gives the calling child a keyring of the container's own.
pub(super) fn make(id: &str, in_user_namespace: bool) -> Result<()> {
    let what = || "make a session keyring".to_owned();
    let Some(key) = join_named(id)? else {
        return Ok(());
    };
    let others = if in_user_namespace { OTHERS_SEARCH } else { 0 };
    syscalls::set_key_permissions(key, OWNERS | others).tried(what)
}

/// Gives a further process the keyring of its container.
pub(super) fn join(id: &str) -> Result<()> {
    join_named(id).map(drop)
}

/// None in a kernel without keys.
fn join_named(id: &str) -> Result<Option<i32>> {
    let name = CString::new(format!("_ses.{id}"))
        .map_err(|_| Error::invalid("the container's name holds a zero byte"))?;
    match syscalls::join_session_keyring(&name) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOSYS) => Ok(None),
        joined => joined
            .map(Some)
            .tried(|| "join the container's session keyring".to_owned()),
    }
}

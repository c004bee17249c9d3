//! The process namespace a pod's containers may share. pid_namespaces(7).
//!
//! A namespace ends with its first process, so that one is nobody's container:
//! it sleeps, and the kernel collects what is orphaned to it. A container that
//! can inspect it finds no rights, no descriptor and no file.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use super::error::{Result, Tried};
use super::syscalls::{self, Forked};

/// All the files the first process has.
const EMPTY: &str = "/run/sandbox/empty";

static NAMESPACE: OnceLock<OwnedFd> = OnceLock::new();

/// While this is there, children of the agent are born in another namespace.
pub(super) struct Inside {
    own: OwnedFd,
}

/// The pod's, made if need be.
pub(super) fn namespace() -> Result<BorrowedFd<'static>> {
    let namespace = match NAMESPACE.get() {
        Some(namespace) => namespace,
        None => {
            let made = make()?;
            NAMESPACE.get_or_init(|| made)
        }
    };
    Ok(namespace.as_fd())
}

/// Enters a process namespace for children to come.
pub(super) fn enter(namespace: BorrowedFd<'_>) -> Result<Inside> {
    let own = File::open("/proc/self/ns/pid").tried(|| "open the own namespace".to_owned())?;
    syscalls::setns(namespace, libc::CLONE_NEWPID)
        .tried(|| "enter the process namespace of others".to_owned())?;
    Ok(Inside { own: own.into() })
}

impl Drop for Inside {
    fn drop(&mut self) {
        // The agent's own namespace: always allowed to whoever is in it.
        let _ = syscalls::setns(self.own.as_fd(), libc::CLONE_NEWPID);
    }
}

fn make() -> Result<OwnedFd> {
    let what = || "make the pod's process namespace".to_owned();
    std::fs::create_dir_all(EMPTY).tried(what)?;
    let forked = syscalls::clone_into(libc::CLONE_NEWPID as u64, None);
    let pid = match forked.tried(what)? {
        Forked::Child => sleep(),
        Forked::Parent(pid) => pid,
    };
    let file = File::open(format!("/proc/{pid}/ns/pid")).tried(what)?;
    Ok(file.into())
}

/// The first process: gives up all it inherited and sleeps.
fn sleep() -> ! {
    const NOBODY: u32 = 65534;
    let given_up = rustix::process::chroot(EMPTY)
        .and_then(|()| rustix::process::chdir("/"))
        .map_err(std::io::Error::from)
        .and_then(|()| syscalls::become_user(NOBODY, NOBODY, Some(&[])))
        .and_then(|()| syscalls::capset(0, 0, 0));
    if given_up.is_err() {
        syscalls::exit(1)
    }
    syscalls::forbid_inspection();
    syscalls::close_from(0);
    syscalls::sleep_forever()
}

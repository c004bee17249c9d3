//! Serving a share.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit};
use vhost::vhost_user::Listener;
use vhost_user_backend::{Error as DaemonError, VhostUserDaemon};
use virtiofsd::filesystem::{FileSystem, SerializableFileSystem};
use virtiofsd::passthrough::read_only::PassthroughFsRo;
use virtiofsd::passthrough::{CachePolicy, Config, PassthroughFs};
use virtiofsd::seccomp::{SeccompAction, enable_seccomp};
use virtiofsd::vhost_user::VhostUserFsBackendBuilder;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::enclosure;
use bulkhead_sys::mounts::Later;

use crate::order::{Order, READY};

/// Open files at most, the kernel's default ceiling. Each file the guest's
/// kernel remembers costs one.
const OPEN_FILES: u64 = 1 << 20;

/// Of these, the server's own: memory regions, queues, sockets.
const OWN_FILES: u64 = 128;

/// Why a share is not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process could not be closed in.
    #[error("the file server could not be closed in")]
    Enclose(#[source] std::io::Error),
    /// The system call filter could not be loaded.
    #[error("the file server's system call filter could not be loaded: {0}")]
    Filter(#[from] virtiofsd::seccomp::Error),
    /// The shared tree could not be opened.
    #[error("the shared directory could not be opened")]
    Open(#[source] std::io::Error),
    /// The vhost-user device could not be made.
    #[error("the vhost-user device could not be made")]
    Device(#[source] virtiofsd::vhost_user::Error),
    /// The conversation with the monitor failed.
    #[error("the conversation with the monitor failed: {0}")]
    Daemon(DaemonError),
    /// The supervisor does not listen.
    #[error("the supervisor could not be told")]
    Ready(#[source] std::io::Error),
}

/// Serves `dir` (or the one file of it the order names) to the first monitor
/// that connects to `listener`, until that disconnects. Says [`READY`] to
/// `status` once it takes requests.
///
/// This closes the calling process in for good. It has to be single-threaded.
///
/// # Errors
///
/// When it cannot be closed in, or the conversation breaks.
pub fn serve(
    order: &Order,
    dir: OwnedFd,
    listener: OwnedFd,
    status: impl Write,
) -> Result<(), Error> {
    // A panic in one of the library's threads would leave requests without
    // an answer for ever; the supervisor is to see the end instead.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        std::process::abort();
    }));
    let limit = raise_limit();
    let later = match order.later {
        true => Later::OfTheOrigin,
        false => Later::Nothing,
    };
    let enclosure = enclosure::enclose(&dir, &order.tree, later).map_err(Error::Enclose)?;
    drop(dir);
    enclosure::drop_privileges().map_err(Error::Enclose)?;
    enable_seccomp(SeccompAction::Kill, false)?;
    let config = Config {
        // What the host changes is seen by the next system call of the guest,
        // and the reverse: names and attributes are never taken from a cache.
        // Contents are cached and dropped when the file's times change.
        entry_timeout: Duration::ZERO,
        attr_timeout: Duration::ZERO,
        cache_policy: CachePolicy::Auto,
        root_dir: enclosure::SHARED_DIR.to_owned(),
        proc_sfd_rawfd: Some(enclosure.proc_self_fd),
        announce_submounts: true,
        xattr: true,
        allow_direct_io: true,
        allow_mmap: true,
        clean_noatime: true,
        guest_fd_limit: limit.saturating_sub(OWN_FILES),
        ..Config::default()
    };
    if order.read_only {
        run(
            PassthroughFsRo::new(config).map_err(Error::Open)?,
            listener,
            status,
        )
    } else {
        run(
            PassthroughFs::new(config).map_err(Error::Open)?,
            listener,
            status,
        )
    }
}

fn run<F>(files: F, listener: OwnedFd, mut status: impl Write) -> Result<(), Error>
where
    F: FileSystem + SerializableFileSystem + Send + Sync + 'static,
{
    let backend = VhostUserFsBackendBuilder::default()
        .build(files)
        .map_err(Error::Device)?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("share".to_owned(), Arc::new(backend), memory)
        .map_err(Error::Daemon)?;
    status
        .write_all(READY.as_bytes())
        .and_then(|()| status.flush())
        .map_err(Error::Ready)?;
    let mut listener = Listener::from(UnixListener::from(listener));
    daemon.start(&mut listener).map_err(Error::Daemon)?;
    match daemon.wait() {
        Ok(()) | Err(DaemonError::HandleRequest(_)) => Ok(()),
        Err(error) => Err(Error::Daemon(error)),
    }
}

/// As many open files as can be had.
fn raise_limit() -> u64 {
    let wanted = Rlimit {
        current: Some(OPEN_FILES),
        maximum: Some(OPEN_FILES),
    };
    if rustix::process::setrlimit(Resource::Nofile, wanted).is_ok() {
        return OPEN_FILES;
    }
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let most = Rlimit {
        current: maximum,
        maximum,
    };
    let _ = rustix::process::setrlimit(Resource::Nofile, most);
    maximum.unwrap_or(OPEN_FILES)
}

//! Work inside a network namespace.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bulkhead_sys::namespaces;
use rtnetlink::Handle;
use rustix::fs::{Mode, OFlags};
use rustix::thread::LinkNameSpaceType;

use crate::Error;

/// Runs `work` in the namespace at `path`, as [`on_thread`] does.
pub(crate) fn inside<T, F, W>(path: &Path, work: W) -> Result<T, Error>
where
    T: Send,
    F: Future<Output = Result<T, Error>>,
    W: FnOnce(Handle) -> F + Send,
{
    let failed = |source: io::Error| Error::Enter {
        path: path.to_owned(),
        source,
    };
    let worked = on_thread(&open(path)?, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
            tokio::spawn(connection);
            work(handle).await
        })
    });
    worked.map_err(failed)?
}

/// Runs `work` in a namespace, on a thread of its own that ends with it: the caller never
/// leaves its namespace. setns(2) refuses what is no network namespace.
pub(crate) fn on_thread<T: Send>(
    namespace: &OwnedFd,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let kind = Some(LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)?;
            Ok(work())
        });
        let panicked = |_| Err(io::Error::other("the work there panicked"));
        thread.join().unwrap_or_else(panicked)
    })
}

/// Opens the namespace at `path`.
pub(crate) fn open(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| Error::Enter {
        path: path.to_owned(),
        source: error.into(),
    })
}

/// Refuses the namespace this process is in, under whatever name.
pub(crate) fn refuse_own(path: &Path) -> Result<(), Error> {
    let own = open(Path::new("/proc/thread-self/ns/net"))?;
    let same = namespaces::are_same(own, open(path)?);
    match same.map_err(|source| Error::Enter {
        path: path.to_owned(),
        source,
    })? {
        true => Err(Error::Own {
            path: path.to_owned(),
        }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_namespace_is_refused_under_any_name() {
        let process = format!("/proc/{}/ns/net", std::process::id());
        for path in ["/proc/self/ns/net", process.as_str()] {
            let refused = crate::join(Path::new(path), "owner", 1);
            assert!(matches!(refused, Err(Error::Own { .. })), "{refused:?}");
        }
        assert!(refuse_own(Path::new("/proc/self/ns/mnt")).is_ok());
        assert!(refuse_own(Path::new("/nowhere")).is_err());
    }
}

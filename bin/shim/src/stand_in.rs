//! A process id of the host for each container, whose processes are the guest's.
//!
//! containerd names a container's process namespace by the process it was told
//! of: `/proc/PID/ns/pid`. One id for all would say that all are one. A thread
//! that sleeps has an id of its own, is found in `/proc` by it, belongs to the
//! pod's process and its control groups, and costs 14 KiB.

use std::io;
use std::sync::{Arc, OnceLock};

use bulkhead_sys::namespaces;

/// Bytes of stack; the C library raises it to what it needs at least.
const STACK: usize = 16 << 10;

/// A thread of this process that does nothing. It ends with this.
#[derive(Debug)]
pub(crate) struct StandIn {
    pid: u32,
    end: Arc<OnceLock<()>>,
}

impl StandIn {
    /// Starts it.
    ///
    /// # Errors
    /// When the kernel gives this process no more threads.
    pub(crate) fn new() -> io::Result<Self> {
        Self::start(|| Ok(()))
    }

    /// Starts one in an empty network namespace of its own: `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// The same, and when there are to be no more namespaces.
    pub(crate) fn with_network() -> io::Result<Self> {
        Self::start(namespaces::unshare_network)
    }

    fn start(prepare: fn() -> io::Result<()>) -> io::Result<Self> {
        let end = Arc::new(OnceLock::new());
        let pid = Arc::new(OnceLock::new());
        let (told, waits) = (Arc::clone(&pid), Arc::clone(&end));
        // Nothing in it allocates: the C library would give it a heap.
        let thread = std::thread::Builder::new().stack_size(STACK);
        thread.spawn(move || {
            let id = rustix::thread::gettid().as_raw_nonzero().get();
            let prepared = prepare().map(|()| id.unsigned_abs());
            let fit = prepared.is_ok();
            let _ = told.set(prepared.map_err(|error| error.kind()));
            if fit {
                waits.wait();
            }
        })?;
        let pid = (*pid.wait()).map_err(io::Error::from)?;
        Ok(Self { pid, end })
    }

    /// Its id among the host's processes.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.end.set(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_a_network_of_its_own_if_it_is_to() {
        let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        let own = StandIn::with_network().unwrap();
        assert_ne!(namespace(own.pid()), namespace(std::process::id()));
        let plain = StandIn::new().unwrap();
        assert_eq!(namespace(plain.pid()), namespace(std::process::id()));
    }

    #[test]
    fn each_has_an_id_of_its_own_with_a_namespace_to_it() {
        let all: Vec<_> = (0..3).map(|_| StandIn::new().unwrap()).collect();
        let mut pids: Vec<_> = all.iter().map(StandIn::pid).collect();
        pids.push(std::process::id());
        for pid in &pids {
            assert!(std::fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok());
        }
        pids.sort_unstable();
        pids.dedup();
        assert_eq!(pids.len(), 4);
    }
}

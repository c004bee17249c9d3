//! Where a pod's things are on the host.
//!
//! ```text
//!   /run/bulkhead/pods/KEY/      0700; KEY is a digest of namespace and id
//!     sock                       containerd's way in
//!     status                     where the pod says how it is
//!     control.sock               where commands of this host's root come in
//!     netns                      the joined network namespace, to be given back
//!     cgroup                     the joined control group, to be removed
//! ```

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bulkhead_sys::cgroup::Cgroup;
use rustix::process::{PidfdFlags, pidfd_open};
use sha2::{Digest, Sha256};

/// Characters of a key: enough that no two pods meet, few enough that a
/// socket's address (107 bytes) has room for them.
const KEY_LENGTH: usize = 32;

/// The directory of one pod.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    key: String,
}

impl Place {
    /// The place of a pod, whether or not it exists.
    pub(crate) fn of(namespace: &str, id: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(namespace);
        hash.update([0]);
        hash.update(id);
        let mut key = hex::encode(hash.finalize());
        key.truncate(KEY_LENGTH);
        Self { key }
    }

    /// Hexadecimal digits no other pod has.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> PathBuf {
        Path::new(bulkhead_status::ROOT).join(&self.key)
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir().join("sock")
    }

    /// The socket where it says how it is.
    pub(crate) fn status(&self) -> PathBuf {
        self.dir().join(bulkhead_status::SOCKET)
    }

    /// Makes the directory, for root only; one that a killed process left is
    /// cleared first.
    pub(crate) fn make(&self) -> io::Result<()> {
        self.remove();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(self.dir())
    }

    /// Removes what killed processes left of any pod, when nobody was there to
    /// say `delete`: places whose socket nobody listens on.
    pub(crate) fn sweep() {
        let Ok(entries) = std::fs::read_dir(bulkhead_status::ROOT) else {
            return;
        };
        for entry in entries.flatten() {
            let key = entry.file_name().to_string_lossy().into_owned();
            let place = Self { key };
            // One that only has not answered yet must not stop another's start.
            if bulkhead_status::is_dead(&place.socket()) {
                place.remove();
            }
        }
    }

    /// The pod's process, if it lives: a descriptor of it (pidfd_open(2)).
    pub(crate) fn process(&self) -> Option<OwnedFd> {
        let pid = bulkhead_status::listener(&self.socket()).ok()?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Still the one that listens, so its number was not another's meanwhile.
        let again = bulkhead_status::listener(&self.socket()).ok()?;
        (again == pid).then_some(process)
    }

    /// Notes which network namespace has to be given back.
    pub(crate) fn note_network(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::ffi::OsStrExt;
        std::fs::write(self.dir().join("netns"), path.as_os_str().as_bytes())
    }

    /// Notes which control group has to be removed.
    pub(crate) fn note_cgroup(&self, path: &str) -> io::Result<()> {
        std::fs::write(self.dir().join("cgroup"), path)
    }

    /// What the control group may have of memory, bytes; none: unlimited.
    pub(crate) fn memory_limit(&self) -> Option<u64> {
        let path = std::fs::read_to_string(self.dir().join("cgroup")).ok()?;
        Cgroup::of(&path).ok()?.memory_limit()
    }

    /// Removes the control group, when nobody is in it any more who does not
    /// leave or end. Who cannot leaves the note for the next who tries.
    pub(crate) fn remove_cgroup(&self) -> bool {
        let Ok(path) = std::fs::read_to_string(self.dir().join("cgroup")) else {
            return true;
        };
        match Cgroup::of(&path).and_then(|cgroup| cgroup.remove()) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(error = bulkhead_provision::chain(&error), "left behind");
                false
            }
        }
    }

    /// Takes everything of the pod away: its network redirection, its control
    /// group. What cannot be taken away now is still known afterwards.
    pub(crate) fn remove(&self) {
        use std::os::unix::ffi::OsStringExt;
        if let Ok(path) = std::fs::read(self.dir().join("netns")) {
            let path = PathBuf::from(std::ffi::OsString::from_vec(path));
            // A namespace that is gone took the redirection along.
            let _ = bulkhead_provision::network::release(&path, self.key());
        }
        if self.remove_cgroup() {
            let _ = std::fs::remove_dir_all(self.dir());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_address_has_room_for_any_pod() {
        let long = "x".repeat(128);
        let place = Place::of(&long, &long);
        assert!(place.socket().as_os_str().len() < 100);
        assert_ne!(place.key(), Place::of("x", &long).key());
        // The border between the two names counts.
        assert_ne!(Place::of("a", "bc").key(), Place::of("ab", "c").key());
    }
}

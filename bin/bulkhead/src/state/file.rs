//! Files that say how things stand: written whole or not at all, read back with a
//! bound, locked by whoever lives.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

/// Largest file read back, bytes: a spec has at most 4 MiB.
const LIMIT: u64 = 8 << 20;

/// Writes a file beside its place, for its owner only, and moves it there.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    std::fs::rename(&new, path)
}

/// Reads a file, as far as it may go.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a lock for flock(2), making it where it is missing.
pub(crate) fn open_lock(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?)
}

/// What a wait comes to, if it ends in time: flock(2) knows no timeout. Its thread ends
/// with this process at the latest.
pub(crate) fn within<T: Send + 'static>(
    time: Duration,
    wait: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (tell, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = tell.send(wait());
    });
    ended.recv_timeout(time).ok()
}

//! A process's standard streams: pipes, or a terminal of the container.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Process;
use rustix::fs::{Gid, OFlags, Uid, fchown};
use rustix::pty::{ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::error::{During, Error};
use super::rootfs::Root;
use super::syscalls::{put_at, terminal_peer};

/// A terminal of the container's devpts.
#[derive(Debug)]
pub(super) struct Terminal {
    /// The agent's side.
    pub(super) master: OwnedFd,
    peer: OwnedFd,
    /// `/dev/pts/<number>`.
    pub(super) number: u32,
}

impl Terminal {
    /// Opens a new one in the devpts mounted below the root.
    pub(super) fn open(root: &Root, process: &Process) -> Result<Self, Error> {
        let make = || {
            let flags = OFlags::RDWR | OFlags::NOCTTY;
            let master = root.find(Path::new("/dev/pts/ptmx"), flags)?;
            unlockpt(&master)?;
            let name = ptsname(&master, Vec::new())?;
            let number = name
                .to_str()
                .ok()
                .and_then(|name| name.rsplit('/').next()?.parse().ok());
            let number = number.ok_or(io::ErrorKind::InvalidData)?;
            let peer = terminal_peer(master.as_fd())?;
            if let Some(size) = process.console_size() {
                let clamp = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
                let size = Winsize {
                    ws_row: clamp(size.height()),
                    ws_col: clamp(size.width()),
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                };
                tcsetwinsize(&master, size)?;
            }
            Ok::<_, io::Error>(Self {
                master,
                peer,
                number,
            })
        };
        make()
            .during("no terminal could be opened: a container with one needs devpts on `/dev/pts`")
    }

    /// Makes it the process's streams and controlling terminal; the process
    /// leads its session.
    pub(super) fn take(&self, uid: u32) -> Result<(), Error> {
        let make = || {
            // The group stays: devpts gives terminals to `tty`.
            fchown(&self.peer, Some(Uid::from_raw(uid)), None)?;
            for number in 0..3 {
                put_at(self.peer.as_fd(), number)?;
            }
            rustix::process::ioctl_tiocsctty(&self.peer)
        };
        make_io(make).during("the terminal could not be made the process's own")
    }
}

fn make_io<E: Into<io::Error>>(make: impl FnOnce() -> Result<(), E>) -> io::Result<()>
where
    io::Error: From<E>,
{
    Ok(make()?)
}

/// Makes three descriptors the process's streams and lets its user open them
/// again through /dev/stdout and the like.
pub(super) fn take_pipes(streams: [&OwnedFd; 3], uid: u32, gid: u32) -> Result<(), Error> {
    for (stream, number) in streams.into_iter().zip(0..) {
        put_at(stream.as_fd(), number).during("the standard streams could not be set up")?;
        let stat = rustix::fs::fstat(stream).during("a standard stream could not be examined")?;
        // Only pipes: /dev/null belongs to everybody. A user namespace that
        // does not map the owner is no reason to fail (runc does the same).
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo {
            let _ = fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        }
    }
    Ok(())
}

//! A terminal of the host for a container's process. Its side of the program that
//! asked goes to that program, over a socket it listens on: what runc's
//! docs/terminals.md describes.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::Error;

/// Makes a terminal, sends the one end to whoever listens at `socket`, and gives the
/// other.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn open(socket: &Path) -> Result<OwnedFd, Error> {
    let (master, slave) = pair().map_err(Error::host("make a terminal"))?;
    send(socket, &master).map_err(Error::io("send a terminal to", socket))?;
    Ok(slave)
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(name, flags, Mode::empty())?;
    Ok((master, slave))
}

fn send(socket: &Path, master: &OwnedFd) -> io::Result<()> {
    let stream = UnixStream::connect(socket)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [master.as_fd()];
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("a descriptor has no room in a message"));
    }
    // At least one byte has to go with it; runc sends the terminal's name.
    sendmsg(
        &stream,
        &[IoSlice::new(b"terminal")],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

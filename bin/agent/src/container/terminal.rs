//! A pty in the container's own devpts. Runs in the child, inside the new
//! root.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::pty::OpenptFlags;

use super::error::{Result, Tried};
use super::{rootfs, syscalls};

/// Makes a pty; gives its master and its slave.
pub(super) fn open(uid: u32) -> Result<(OwnedFd, OwnedFd)> {
    let what = || "make a terminal".to_owned();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty()).tried(what)?;
    rustix::pty::unlockpt(&master).tried(what)?;
    // By descriptor: the container's /dev/pts may be covered by an image's.
    let open = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, open).tried(what)?;
    // The group of the mount (5, tty) stays.
    rustix::fs::fchown(&slave, Some(Uid::from_raw(uid)), None::<Gid>).tried(what)?;
    Ok((master, slave))
}

/// Binds the slave to /dev/console, for programs that look there.
pub(super) fn bind_console(slave: &OwnedFd) -> Result<()> {
    let what = || "make `/dev/console`".to_owned();
    let name = rustix::termios::ttyname(slave, Vec::new()).tried(what)?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open("/dev/console", flags, Mode::from_raw_mode(0o600)).tried(what)?;
    let place = rustix::fs::open(
        "/dev/console",
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .tried(what)?;
    let path = Path::new(name.to_str().unwrap_or("/dev/pts/0"));
    let tree = rootfs::clone_tree(path, false).tried(what)?;
    rootfs::attach(tree.as_fd(), place.as_fd(), Path::new("/dev/console"))
}

/// Makes the slave stdin, stdout, stderr and the controlling terminal of a
/// session that has none.
pub(super) fn adopt(slave: &OwnedFd) -> Result<()> {
    let what = || "take the terminal".to_owned();
    syscalls::set_controlling_terminal(slave.as_fd()).tried(what)?;
    for number in 0..3 {
        syscalls::make_standard(slave.as_fd(), number).tried(what)?;
    }
    Ok(())
}

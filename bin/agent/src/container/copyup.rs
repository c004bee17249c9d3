//! Fills a tmpfs with a directory: what it is about to cover, as Podman's
//! `tmpcopyup`, or what it mirrors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};

use super::error::{Error, Result, Tried};

/// Entries copied at most; an image decides how many there are.
const ENTRY_LIMIT: usize = 100_000;

/// Directories inside each other at most.
const DEPTH_LIMIT: usize = 64;

/// Copies the directory `from` (opened by path) into the detached mount `to`.
pub(crate) fn fill(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let mut budget = ENTRY_LIMIT;
    let from = rustix::fs::openat(from, ".", dir_flags(), Mode::empty())
        .tried(|| "open what a tmpfs covers".to_owned())?;
    let to = rustix::fs::openat(to, ".", dir_flags(), Mode::empty())
        .tried(|| "open a new tmpfs".to_owned())?;
    copy_dir(&from, &to, DEPTH_LIMIT, &mut budget)
}

fn dir_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn copy_dir(from: &OwnedFd, to: &OwnedFd, depth: usize, budget: &mut usize) -> Result<()> {
    let what = || "copy what a tmpfs covers".to_owned();
    for entry in Dir::read_from(from).tried(what)? {
        let entry = entry.tried(what)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        *budget = budget
            .checked_sub(1)
            .filter(|_| depth > 0)
            .ok_or_else(|| Error::invalid("a tmpfs covers too much to be copied into it"))?;
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).tried(what)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, mode).tried(what)?;
                let below = rustix::fs::openat(from, name, dir_flags(), Mode::empty());
                let target = rustix::fs::openat(to, name, dir_flags(), Mode::empty());
                copy_dir(&below.tried(what)?, &target.tried(what)?, depth - 1, budget)?;
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(from, name, Vec::new()).tried(what)?;
                rustix::fs::symlinkat(link.as_c_str(), to, name).tried(what)?;
            }
            FileType::RegularFile => copy_file(from, to, name).tried(what)?,
            // Sockets, pipes and nodes mean nothing in another place.
            _ => continue,
        }
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .tried(what)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            // The umask and the chown took bits away.
            rustix::fs::chmodat(to, name, mode, AtFlags::empty()).tried(what)?;
        }
    }
    Ok(())
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &std::ffi::CStr) -> std::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = rustix::fs::openat(from.as_fd(), name, flags, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = rustix::fs::openat(to.as_fd(), name, flags, Mode::from_raw_mode(0o600))?;
    std::io::copy(
        &mut std::fs::File::from(source),
        &mut std::fs::File::from(target),
    )?;
    Ok(())
}

//! Volumes that are disks with a file system: mounted once for the pod, however many of
//! its containers use them, and gone with the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bulkhead_protocol::agent::{Disk, DiskUsage, Group};
use bulkhead_protocol::name;
use rustix::fs::{AtFlags, CWD, Gid};
use rustix::mount::UnmountFlags;
use tokio::sync::Mutex;

use crate::disks::{self, Error};

/// Where they are mounted: `DIR/<serial>`.
const DIR: &str = "/run/disks";

/// What a group may do: read and write, and enter directories, whose files are its own.
const FILE_MODE: u32 = 0o660;
const DIRECTORY_MODE: u32 = 0o2770;

/// Held while one is mounted: who wants the same has to find it whole.
static MOUNTING: Mutex<()> = Mutex::const_new(());

fn place(serial: &str) -> Result<PathBuf, Error> {
    name::check(serial)?;
    Ok(Path::new(DIR).join(serial))
}

/// Mounts a disk unless it is; where it is mounted.
pub(crate) async fn mount(disk: &Disk, group: Option<&Group>) -> Result<PathBuf, Error> {
    let target = place(&disk.at.serial)?;
    let _mounting = MOUNTING.lock().await;
    if target.exists() {
        return Ok(target);
    }
    disks::make_dir(&target)?;
    let mounted = disks::mount_file_system(disk, &target).await;
    let given = match (mounted, group) {
        (Ok(()), Some(group)) if !disk.read_only => give(&target, group).await,
        (mounted, _) => mounted,
    };
    given.inspect_err(|_| forget(&disk.at.serial))?;
    Ok(target)
}

/// Unmounts what is on a disk, if something is.
pub(crate) fn forget(serial: &str) {
    let Ok(target) = place(serial) else {
        return;
    };
    // Written back here. A process that is still dying may hold it.
    if rustix::mount::unmount(&target, UnmountFlags::empty()).is_err() {
        let _ = rustix::mount::unmount(&target, UnmountFlags::DETACH);
    }
    let _ = std::fs::remove_dir(&target);
}

/// How full they are.
pub(crate) fn usage() -> Vec<DiskUsage> {
    let all = std::fs::read_dir(DIR).into_iter().flatten().flatten();
    all.filter_map(|entry| {
        let stat = rustix::fs::statvfs(entry.path()).ok()?;
        Some(DiskUsage {
            serial: entry.file_name().into_string().ok()?,
            total_bytes: stat.f_blocks * stat.f_frsize,
            available_bytes: stat.f_bavail * stat.f_frsize,
            used_bytes: (stat.f_blocks - stat.f_bfree) * stat.f_frsize,
            total_inodes: stat.f_files,
            available_inodes: stat.f_ffree,
            ..Default::default()
        })
    })
    .collect()
}

/// Lets a file system have all of its disk, once that has so many bytes.
pub(crate) async fn grow(serial: &str, bytes: u64) -> Result<(), Error> {
    let target = place(serial)?;
    let bytes = crate::block::grown(serial, bytes).await?;
    let grown = File::open(&target).and_then(|top| bulkhead_sys::ext4::grow(top, bytes));
    grown.map_err(|source| Error::Volume {
        path: target,
        what: "made larger",
        source,
    })
}

/// Gives everything below a place to a group, as a kubelet does: nobody else has it yet.
async fn give(top: &Path, group: &Group) -> Result<(), Error> {
    let given = give_all(top, group).await;
    given.map_err(|source| Error::Volume {
        path: top.to_owned(),
        what: "given to its group",
        source,
    })
}

async fn give_all(top: &Path, group: &Group) -> io::Result<()> {
    let about = std::fs::symlink_metadata(top)?;
    let right = about.gid() == group.gid && about.mode() & DIRECTORY_MODE == DIRECTORY_MODE;
    if group.on_mismatch && right {
        return Ok(());
    }
    // Directories come last, the top after all others: a walk that was broken off is made
    // again.
    let mut dirs = vec![top.to_owned()];
    let mut seen = 0;
    while let Some(dir) = dirs.get(seen).cloned() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => dirs.push(entry.path()),
                false => give_one(&entry.path(), group.gid)?,
            }
        }
        seen += 1;
        // Others are served meanwhile, however large it is.
        tokio::task::yield_now().await;
    }
    dirs.iter()
        .rev()
        .try_for_each(|dir| give_one(dir, group.gid))
}

fn give_one(path: &Path, gid: u32) -> io::Result<()> {
    let about = std::fs::symlink_metadata(path)?;
    let owner = Some(Gid::from_raw(gid));
    rustix::fs::chownat(CWD, path, None, owner, AtFlags::SYMLINK_NOFOLLOW)?;
    if about.is_symlink() {
        return Ok(());
    }
    let wanted = match about.is_dir() {
        true => DIRECTORY_MODE,
        false => FILE_MODE,
    };
    let mode = (about.mode() & 0o7777) | wanted;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_in_a_volume_is_its_groups() {
        let dir = tempfile::tempdir().unwrap();
        let (inner, file) = (dir.path().join("inner"), dir.path().join("inner/file"));
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(&file, 0o400);
        let before = std::fs::metadata("/etc/passwd").unwrap();
        // The test's own group: to give to another is for root alone.
        let gid = rustix::process::getegid().as_raw();
        let group = Group {
            gid,
            ..Default::default()
        };
        give(dir.path(), &group).await.unwrap();
        let modes =
            [dir.path(), &inner, &file].map(|path| path.metadata().unwrap().mode() & 0o7777);
        assert_eq!(modes.map(|mode| mode & 0o2770), [0o2770, 0o2770, 0o660]);
        let after = std::fs::metadata("/etc/passwd").unwrap();
        assert_eq!((before.gid(), before.mode()), (after.gid(), after.mode()));
        // Right at the top: what is below is not looked at again.
        mode(&inner, 0o700);
        let again = Group {
            on_mismatch: true,
            ..group
        };
        give(dir.path(), &again).await.unwrap();
        assert_eq!(inner.metadata().unwrap().mode() & 0o7777, 0o700);
    }
}

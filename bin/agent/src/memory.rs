//! Volumes in the guest's memory: one tmpfs for each, which the pod's containers
//! share and which ends with the guest.
//!
//! A container may have filled a volume with links before another is given a
//! part of it: parts are resolved beneath the volume and then used by
//! descriptor.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bulkhead_protocol::agent::{Directory, MemoryVolume};
use bulkhead_protocol::name;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

/// Where the volumes are.
const VOLUMES: &str = "/run/sandbox/memory";

/// Where parts of them are mounted while a container has them.
const PARTS: &str = "/run/sandbox/parts";

/// Volumes of a pod at most.
const VOLUME_LIMIT: usize = 256;

/// Directories inside each other at most.
const DEPTH_LIMIT: usize = 64;

/// Of parts, which have no names of their own.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// Why a volume could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the memory volume has no valid name")]
    Name(#[from] name::NameError),
    #[error("the memory volume `{0}` is asked for with impossible values")]
    Values(String),
    #[error("a pod has more than {VOLUME_LIMIT} volumes in memory")]
    TooMany,
    #[error("cannot {what} the memory volume `{name}`")]
    Failed {
        name: String,
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
}

/// Where a volume, or a part of one, is in the agent's own namespace.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    /// A mount made for one container.
    part: bool,
}

impl Place {
    /// Its path there.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.part {
            let _ = rustix::mount::unmount(&self.path, UnmountFlags::DETACH);
            remove(&self.path);
        }
    }
}

/// Removes an empty mount point.
fn remove(path: &Path) {
    if std::fs::remove_dir(path).is_err() {
        let _ = std::fs::remove_file(path);
    }
}

/// The volume or the part of it, made if need be.
pub(crate) fn place(volume: &MemoryVolume) -> Result<Place, Error> {
    let root = volume.root.get_or_default();
    name::check(&root.name)?;
    let fits = |own: &Directory| own.mode <= 0o7777 && !matches!(own.name.as_str(), "." | "..");
    let known = |own: &Directory| !own.name.is_empty() && !own.name.contains('/') && fits(own);
    let possible = volume.size_bytes > 0
        && volume.path.len() <= DEPTH_LIMIT
        && fits(root)
        && volume.path.iter().all(known);
    if !possible {
        return Err(Error::Values(root.name.clone()));
    }
    let failed = |what| {
        move |source| Error::Failed {
            name: root.name.clone(),
            what,
            source,
        }
    };
    let path = Path::new(VOLUMES).join(&root.name);
    if !path.exists() {
        if std::fs::read_dir(VOLUMES).is_ok_and(|all| all.count() >= VOLUME_LIMIT) {
            return Err(Error::TooMany);
        }
        make(&path, root, volume.size_bytes).map_err(failed("make"))?;
    }
    if volume.path.is_empty() {
        return Ok(Place { path, part: false });
    }
    part(&path, &volume.path).map_err(failed("give a part of"))
}

fn make(path: &Path, root: &Directory, bytes: u64) -> std::io::Result<()> {
    std::fs::create_dir_all(path)?;
    let Directory { uid, gid, mode, .. } = root;
    let data = CString::new(format!("size={bytes},mode={mode:o},uid={uid},gid={gid}"))?;
    let mounted = rustix::mount::mount(
        "tmpfs",
        path,
        "tmpfs",
        MountFlags::empty(),
        Some(data.as_c_str()),
    );
    if mounted.is_err() {
        let _ = std::fs::remove_dir(path);
    }
    Ok(mounted?)
}

fn part(volume: &Path, path: &[Directory]) -> std::io::Result<Place> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(volume, flags, Mode::empty())?;
    let found = descend(root.as_fd(), path)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(&found, "", flags)?;
    let stat = rustix::fs::statat(&found, "", AtFlags::EMPTY_PATH)?;
    std::fs::create_dir_all(PARTS)?;
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let place = Path::new(PARTS).join(number.to_string());
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => std::fs::create_dir(&place)?,
        FileType::RegularFile => drop(std::fs::File::create_new(&place)?),
        _ => {
            return Err(std::io::Error::other(
                "a container has put neither a directory nor a file there",
            ));
        }
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if let Err(error) = rustix::mount::move_mount(&tree, "", CWD, &place, flags) {
        remove(&place);
        return Err(error.into());
    }
    Ok(Place {
        path: place,
        part: true,
    })
}

fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(root, path, flags, Mode::empty(), beneath)
}

/// Opens what a path beneath the root leads to, making directories where
/// nothing is. Links of the volume are followed as long as they stay in it.
fn descend(root: BorrowedFd<'_>, path: &[Directory]) -> rustix::io::Result<OwnedFd> {
    let mut above = PathBuf::from(".");
    for own in path {
        let so_far = above.join(&own.name);
        if let Err(error) = open(root, &so_far, OFlags::empty()) {
            if error != Errno::NOENT {
                return Err(error);
            }
            let parent = open(root, &above, OFlags::DIRECTORY)?;
            make_below(parent.as_fd(), own)?;
        }
        above = so_far;
    }
    open(root, &above, OFlags::empty())
}

fn make_below(parent: BorrowedFd<'_>, own: &Directory) -> rustix::io::Result<()> {
    rustix::fs::mkdirat(parent, own.name.as_str(), Mode::from_raw_mode(0o700))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(parent, own.name.as_str(), flags, Mode::empty())?;
    let owner = (Uid::from_raw(own.uid), Gid::from_raw(own.gid));
    rustix::fs::fchown(&made, Some(owner.0), Some(owner.1))?;
    // After the owner, with whom the kernel takes set-id bits away.
    rustix::fs::fchmod(&made, Mode::from_raw_mode(own.mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> Directory {
        Directory {
            name: name.to_owned(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            mode: 0o2750,
            ..Default::default()
        }
    }

    #[test]
    fn a_part_is_made_with_its_mode_and_links_out_of_the_volume_lead_nowhere() {
        use std::os::unix::fs::{MetadataExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir_all(volume.join("real")).unwrap();
        symlink("real", volume.join("inside")).unwrap();
        symlink("..", volume.join("above")).unwrap();
        symlink("/", volume.join("slash")).unwrap();
        symlink("nothing", volume.join("dangling")).unwrap();
        let root = rustix::fs::open(&volume, OFlags::PATH, Mode::empty()).unwrap();
        let descend = |names: &[&str]| {
            let path: Vec<_> = names.iter().map(|name| directory(name)).collect();
            descend(root.as_fd(), &path)
        };
        descend(&["a", "b"]).unwrap();
        let mode = |path: &str| volume.join(path).metadata().unwrap().mode() & 0o7777;
        assert_eq!((mode("a"), mode("a/b")), (0o2750, 0o2750));
        descend(&["inside", "c"]).unwrap();
        assert_eq!(mode("real/c"), 0o2750);
        assert_eq!(descend(&["above", "x"]).unwrap_err(), Errno::XDEV);
        assert_eq!(descend(&["slash"]).unwrap_err(), Errno::XDEV);
        assert_eq!(descend(&["dangling", "x"]).unwrap_err(), Errno::EXIST);
        assert!(!dir.path().join("x").exists());
    }

    #[test]
    fn impossible_volumes_are_refused_before_anything_is_made() {
        let volume = |change: &dyn Fn(&mut MemoryVolume)| {
            let mut volume = MemoryVolume {
                root: Some(directory("cache")).into(),
                size_bytes: 4096,
                path: vec![directory("a")],
                ..Default::default()
            };
            change(&mut volume);
            place(&volume)
        };
        let root = |name: &str| Some(directory(name)).into();
        let wrong: [&dyn Fn(&mut MemoryVolume); 7] = [
            &|own| own.root = root("../x"),
            &|own| own.root = None.into(),
            &|own| own.size_bytes = 0,
            &|own| own.path[0].name = "..".to_owned(),
            &|own| own.path[0].name = "a/b".to_owned(),
            &|own| own.path[0].mode = 0o10_000,
            &|own| own.path = vec![directory("a"); DEPTH_LIMIT + 1],
        ];
        for change in wrong {
            let error = volume(change).unwrap_err();
            assert!(
                matches!(error, Error::Name(_) | Error::Values(_)),
                "{error}"
            );
        }
    }
}

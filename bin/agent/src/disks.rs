//! Disks the host attached, and root filesystems made of them.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use bulkhead_protocol::agent::{Disk, Rootfs};
use bulkhead_sys::loop_device::LoopDevice;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::block::{self, find};

/// Layers of a root filesystem at most; overlayfs itself takes 500.
const LAYER_LIMIT: usize = 500;

/// File systems of disks that are root filesystems: what the guest's kernel has.
const FILESYSTEMS: [&str; 4] = ["ext2", "ext3", "ext4", "erofs"];

/// Where root filesystems are put together: `ROOTFS_DIR/<container>/…`.
const ROOTFS_DIR: &str = "/run/rootfs";

/// Where shares are mounted: `SHARES_DIR/<tag>`.
const SHARES_DIR: &str = "/run/shares";

/// Why a root filesystem could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Block(#[from] block::Error),
    #[error("a root filesystem needs between 1 and {LAYER_LIMIT} layers, not {0}")]
    Layers(usize),
    #[error("`{what}` could not be mounted")]
    Mount {
        what: String,
        #[source]
        source: rustix::io::Errno,
    },
    #[error("the guest cannot mount the file system `{0}` of a disk; use ext4 or erofs")]
    Filesystem(String),
    #[error("a layer cannot be had as a block device: the guest's kernel needs loop devices")]
    Loop(#[source] io::Error),
    #[error(transparent)]
    Name(#[from] bulkhead_protocol::name::NameError),
    #[error("`{path}` could not be {what}")]
    Volume {
        path: PathBuf,
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` could not be made")]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A root filesystem; `destroy` takes it apart.
#[derive(Debug)]
pub(crate) struct Assembled {
    /// The mount containers enter.
    pub(crate) root: PathBuf,
    /// Mounts made, in order.
    mounts: Vec<PathBuf>,
    /// Its part of the writable disk.
    own: Option<PathBuf>,
    dir: PathBuf,
}

impl Assembled {
    /// Puts together the root filesystem of `container` (a checked name).
    pub(crate) async fn new(container: &str, rootfs: &Rootfs) -> Result<Self, Error> {
        let dir = Path::new(ROOTFS_DIR).join(container);
        let mut assembled = Self {
            root: dir.join("root"),
            mounts: Vec::new(),
            own: None,
            dir: dir.clone(),
        };
        make_dir(&assembled.root)?;
        let root = assembled.root.clone();
        let built = match rootfs.disk.as_ref() {
            Some(disk) if !disk.read_only => assembled.mount_disk(disk, &root).await,
            Some(_) => assembled.overlay(container, rootfs).await,
            None if !rootfs.directory.is_empty() => assembled.bind_directory(rootfs, &root),
            None if is_layered(rootfs) => assembled.overlay(container, rootfs).await,
            None => assembled.mount(&rootfs.share, &root, "virtiofs", MountFlags::empty(), ""),
        };
        match built {
            Ok(()) => Ok(assembled),
            Err(error) => {
                assembled.destroy();
                Err(error)
            }
        }
    }

    async fn overlay(&mut self, container: &str, rootfs: &Rootfs) -> Result<(), Error> {
        let lower = match rootfs.disk.as_ref() {
            Some(disk) => self.disk_layer(disk).await?,
            None if rootfs.share.is_empty() => self.layers(rootfs).await?,
            None if !rootfs.files.is_empty() => self.layer_files(rootfs)?,
            None => self.shared_layer(rootfs)?,
        };
        let writable = self.dir.join("w");
        make_dir(&writable)?;
        self.mount_writable(rootfs, &writable).await?;
        // The disk is the sandbox's: a directory for each container.
        let own = writable.join(container);
        let upper = own.join("up");
        make_dir(&upper)?;
        make_dir(&own.join("work"))?;
        let top = lower.split(':').next().unwrap_or(&lower);
        like(&self.dir.join(top), &upper)?;
        self.own = Some(own);
        let data = format!(
            "lowerdir={lower},upperdir=w/{container}/up,workdir=w/{container}/work,volatile"
        );
        rustix::process::chdir(&self.dir).map_err(|source| Error::Mount {
            what: "overlay".into(),
            source,
        })?;
        let root = self.root.clone();
        let mounted = self.mount("overlay", &root, "overlay", MountFlags::empty(), &data);
        let _ = rustix::process::chdir("/");
        mounted
    }

    /// Mounts a disk as the one layer.
    async fn disk_layer(&mut self, disk: &Disk) -> Result<String, Error> {
        let name = "0".to_owned();
        let target = self.dir.join(&name);
        make_dir(&target)?;
        self.mount_disk(disk, &target).await?;
        Ok(name)
    }

    async fn mount_disk(&mut self, disk: &Disk, target: &Path) -> Result<(), Error> {
        mount_file_system(disk, target).await?;
        self.mounts.push(target.to_owned());
        Ok(())
    }

    /// Mounts the share that holds the one layer.
    fn shared_layer(&mut self, rootfs: &Rootfs) -> Result<String, Error> {
        let layer = self.enter_shared(&rootfs.share, &rootfs.lower)?;
        Ok(layer.display().to_string())
    }

    /// Makes a directory of the share the root filesystem, as it is.
    fn bind_directory(&mut self, rootfs: &Rootfs, root: &Path) -> Result<(), Error> {
        let directory = self.enter_shared(&rootfs.share, &rootfs.directory)?;
        rustix::mount::mount_bind(&directory, root).map_err(|source| Error::Mount {
            what: format!("virtiofs {}", rootfs.directory),
            source,
        })?;
        self.mounts.push(root.to_owned());
        Ok(())
    }

    /// Where a directory of the share is. What is mounted on the host is mounted
    /// here when somebody enters it, which mounts themselves do not.
    fn enter_shared(&mut self, share: &str, name: &str) -> Result<PathBuf, Error> {
        bulkhead_protocol::name::check(name)?;
        let place = mount_share(share)?.join(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&place, flags, Mode::empty()).map_err(|source| Error::Mount {
            what: format!("virtiofs {name}"),
            source,
        })?;
        self.mounts.push(place.clone());
        Ok(place)
    }

    /// Mounts layers that are files of the share; their `lowerdir`.
    fn layer_files(&mut self, rootfs: &Rootfs) -> Result<String, Error> {
        let count = rootfs.files.len();
        if !(1..=LAYER_LIMIT).contains(&count) {
            return Err(Error::Layers(count));
        }
        let share = mount_share(&rootfs.share)?;
        for (index, name) in rootfs.files.iter().enumerate() {
            bulkhead_protocol::name::check(name)?;
            let made = std::fs::File::open(share.join(name)).and_then(LoopDevice::of);
            let device = made.map_err(Error::Loop)?;
            let target = self.dir.join(index.to_string());
            make_dir(&target)?;
            let source = device.path().display().to_string();
            self.mount(&source, &target, "erofs", MountFlags::RDONLY, "")?;
        }
        Ok(lower_dirs(count))
    }

    /// Mounts the layers; their `lowerdir`. Names relative to the working
    /// directory keep 500 of them within the one page mount(2) takes.
    async fn layers(&mut self, rootfs: &Rootfs) -> Result<String, Error> {
        let count = rootfs.layers.len();
        if !(1..=LAYER_LIMIT).contains(&count) {
            return Err(Error::Layers(count));
        }
        for (index, layer) in rootfs.layers.iter().enumerate() {
            let device = find(layer).await?;
            let target = self.dir.join(index.to_string());
            make_dir(&target)?;
            self.mount(&device, &target, "erofs", MountFlags::RDONLY, "")?;
        }
        Ok(lower_dirs(count))
    }

    async fn mount_writable(&mut self, rootfs: &Rootfs, target: &Path) -> Result<(), Error> {
        match rootfs.writable.as_ref() {
            Some(disk) => {
                let device = find(disk).await?;
                self.mount(
                    &device,
                    target,
                    "ext4",
                    MountFlags::NOATIME,
                    "discard,nobarrier",
                )
            }
            None => {
                let data = format!("mode=0755,size={}", rootfs.writable_bytes);
                self.mount("tmpfs", target, "tmpfs", MountFlags::empty(), &data)
            }
        }
    }

    fn mount(
        &mut self,
        source: &str,
        target: &Path,
        kind: &str,
        flags: MountFlags,
        data: &str,
    ) -> Result<(), Error> {
        mount(source, target, kind, flags, data)?;
        self.mounts.push(target.to_owned());
        Ok(())
    }

    /// Bytes used and bytes in all of the writable layer.
    pub(crate) fn usage(&self) -> (u64, u64) {
        rustix::fs::statvfs(&self.root).map_or((0, 0), |stat| {
            let size = stat.f_blocks * stat.f_frsize;
            (size - stat.f_bfree * stat.f_frsize, size)
        })
    }

    /// Unmounts and removes everything.
    pub(crate) fn destroy(self) {
        // The room is for the sandbox's next container.
        if let Some(own) = &self.own {
            let _ = std::fs::remove_dir_all(own);
        }
        for mount in self.mounts.iter().rev() {
            // Detached: a process that is still dying may hold it.
            let _ = rustix::mount::unmount(mount, UnmountFlags::DETACH);
        }
        // What is left are places of mounts. One that is still a mount is somebody's
        // files, and stays.
        let places = std::fs::read_dir(&self.dir).into_iter().flatten();
        for place in places.flatten() {
            let _ = std::fs::remove_dir(place.path());
        }
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// Mounts the file system of a disk.
pub(crate) async fn mount_file_system(disk: &Disk, target: &Path) -> Result<(), Error> {
    if !FILESYSTEMS.contains(&disk.filesystem.as_str()) {
        return Err(Error::Filesystem(disk.filesystem.clone()));
    }
    let device = find(disk.at.get_or_default()).await?;
    let flags = if disk.read_only {
        MountFlags::RDONLY
    } else {
        MountFlags::NOATIME
    };
    mount(&device, target, &disk.filesystem, flags, "")
}

fn mount(
    source: &str,
    target: &Path,
    kind: &str,
    flags: MountFlags,
    data: &str,
) -> Result<(), Error> {
    let options = CString::new(data).expect("mount options are made of numbers and words");
    let mounted = rustix::mount::mount(source, target, kind, flags, Some(options.as_c_str()));
    mounted.map_err(|error| Error::Mount {
        what: format!("{kind} {source}"),
        source: error,
    })
}

/// Is there a writable layer above others, or is the share the root itself?
fn is_layered(rootfs: &Rootfs) -> bool {
    rootfs.share.is_empty() || !rootfs.lower.is_empty() || !rootfs.files.is_empty()
}

/// The topmost layer comes first.
fn lower_dirs(count: usize) -> String {
    let lower: Vec<String> = (0..count).rev().map(|index| index.to_string()).collect();
    lower.join(":")
}

/// Mounts the virtiofs device `tag`, unless it is; where it is mounted. A
/// second mount of one device would show whatever the kernel finds first of
/// its file systems, which need not be the share itself.
pub(crate) fn mount_share(tag: &str) -> Result<PathBuf, Error> {
    bulkhead_protocol::name::check(tag)?;
    let target = Path::new(SHARES_DIR).join(tag);
    if target.exists() {
        return Ok(target);
    }
    make_dir(&target)?;
    let mounted = rustix::mount::mount(tag, &target, "virtiofs", MountFlags::empty(), None);
    mounted.map_err(|source| {
        let _ = std::fs::remove_dir(&target);
        Error::Mount {
            what: format!("virtiofs {tag}"),
            source,
        }
    })?;
    Ok(target)
}

/// Gives a directory the owner and the mode of another: an overlay's own root has those
/// of its upper directory.
fn like(other: &Path, path: &Path) -> Result<(), Error> {
    use rustix::fs::{Gid, Uid};
    let copied = rustix::fs::stat(other).and_then(|stat| {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chown(path, Some(uid), Some(gid))?;
        rustix::fs::chmod(path, Mode::from_raw_mode(stat.st_mode))
    });
    copied.map_err(|source| Error::Directory {
        path: path.to_owned(),
        source: source.into(),
    })
}

pub(crate) fn make_dir(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(Mode::from_raw_mode(0o755).as_raw_mode())
        .create(path)
        .map_err(|source| Error::Directory {
            path: path.to_owned(),
            source,
        })
}

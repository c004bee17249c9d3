//! Filling the share of a pod while its server serves it.
//!
//! What a container is given is mounted in the server's own mount namespace
//! and nowhere else: nobody on the host sees it, and it ends with the server,
//! however that ends.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bulkhead_sys::mounts::{self, Later};
use bulkhead_sys::namespaces;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, UnmountFlags};

use crate::enclosure::SHARED_DIR;

/// Things in one share at most.
const ENTRY_LIMIT: usize = 4096;

/// Why a share could not be filled.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// The server is gone, or its namespace cannot be entered.
    #[error("the file server's mounts cannot be reached")]
    Enter(#[source] io::Error),
    /// The kernel refused a mount.
    #[error("`{}` cannot be shared with the guest", path.display())]
    Mount {
        /// What was to be shared.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// More than a share holds.
    #[error("a sandbox shares more than {ENTRY_LIMIT} files and directories")]
    TooMany,
}

/// A tree of files, mounted nowhere yet.
#[derive(Debug)]
pub struct Detached {
    tree: OwnedFd,
    path: PathBuf,
}

impl Detached {
    /// What is at `opened` (any descriptor of it; `path` is its name for
    /// people), with everything mounted below it, and nothing that is mounted later.
    ///
    /// # Errors
    /// [`PodError::Mount`].
    pub fn bind(opened: &OwnedFd, path: &Path, read_only: bool) -> Result<Self, PodError> {
        let failed = |source: io::Error| PodError::Mount {
            path: path.to_owned(),
            source,
        };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = rustix::mount::open_tree(opened, "", flags).map_err(|e| failed(e.into()))?;
        mounts::set_later(&tree, Later::Nothing).map_err(failed)?;
        if read_only {
            mounts::set_read_only(&tree, true, true).map_err(failed)?;
        }
        Ok(Self {
            tree,
            path: path.to_owned(),
        })
    }

    /// The union of directories, topmost first, read-only. `layers` come from
    /// a snapshotter of the host; they may hold overlayfs's own marks.
    ///
    /// # Errors
    /// [`PodError::Mount`].
    pub fn union(layers: &[OwnedFd], path: &Path) -> Result<Self, PodError> {
        match layers {
            [only] => Self::bind(only, path, true),
            _ => Self::overlay(layers, None, path),
        }
    }

    /// Directories below one that is written, and a directory beside that which
    /// overlayfs works in.
    ///
    /// # Errors
    /// [`PodError::Mount`].
    pub fn writable_union(
        layers: &[OwnedFd],
        upper: &OwnedFd,
        work: &OwnedFd,
        path: &Path,
    ) -> Result<Self, PodError> {
        Self::overlay(layers, Some((upper, work)), path)
    }

    fn overlay(
        layers: &[OwnedFd],
        upper: Option<(&OwnedFd, &OwnedFd)>,
        path: &Path,
    ) -> Result<Self, PodError> {
        let tree = overlay(layers, upper).map_err(|source| PodError::Mount {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            tree,
            path: path.to_owned(),
        })
    }

    fn is_dir(&self) -> io::Result<bool> {
        let stat = rustix::fs::statat(&self.tree, "", AtFlags::EMPTY_PATH)?;
        Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }
}

fn overlay(layers: &[OwnedFd], upper: Option<(&OwnedFd, &OwnedFd)>) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // By descriptor: a path could hold a colon or be exchanged meanwhile.
    let path = |layer: &OwnedFd| format!("/proc/self/fd/{}", layer.as_raw_fd());
    let lower: Vec<String> = layers.iter().map(path).collect();
    let lower = CString::new(lower.join(":"))?;
    rustix::mount::fsconfig_set_string(&context, "lowerdir", &lower)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    if let Some((upper, work)) = upper {
        rustix::mount::fsconfig_set_string(&context, "upperdir", path(upper))?;
        rustix::mount::fsconfig_set_string(&context, "workdir", path(work))?;
        // The directories may be those of a mount of the snapshotter's, which does not
        // matter to one without an index; a kernel without them knows no such option.
        let _ = rustix::mount::fsconfig_set_string(&context, "index", "off");
        attributes = MountAttrFlags::empty();
    }
    rustix::mount::fsconfig_set_string(&context, "source", "bulkhead")?;
    rustix::mount::fsconfig_create(&context)?;
    Ok(rustix::mount::fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// The share of a pod.
#[derive(Debug)]
pub struct Pod {
    namespace: OwnedFd,
    names: Vec<String>,
}

impl Pod {
    /// The share a server serves, by the server's process. It has to serve
    /// already: before that it is in the host's own namespace.
    ///
    /// # Errors
    /// [`PodError::Enter`].
    pub fn of(server: u32) -> Result<Self, PodError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let path = format!("/proc/{server}/ns/mnt");
        let namespace = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| PodError::Enter(error.into()))?;
        Ok(Self {
            namespace,
            names: Vec::new(),
        })
    }

    /// Puts a tree into the share, as `name`: letters, digits, `-`.
    ///
    /// # Errors
    /// [`PodError`]; the share is as it was then.
    pub fn add(&mut self, name: &str, what: &Detached) -> Result<(), PodError> {
        if self.names.len() >= ENTRY_LIMIT {
            return Err(PodError::TooMany);
        }
        let failed = |source| PodError::Mount {
            path: what.path.clone(),
            source,
        };
        let is_dir = what.is_dir().map_err(failed)?;
        self.inside(|| attach(name, &what.tree, is_dir).map_err(failed))?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// Takes a tree out again; nothing happens when it is not there.
    pub fn remove(&mut self, name: &str) {
        self.names.retain(|other| other != name);
        // Fails only when the thread cannot be had; the mount then goes with
        // the server.
        let _ = self.inside(|| {
            detach(name);
            Ok(())
        });
    }

    fn inside<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, PodError> + Send,
    ) -> Result<T, PodError> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                namespaces::enter_mounts(&self.namespace).map_err(PodError::Enter)?;
                work()
            });
            let panicked = || Err(PodError::Enter(io::Error::other("the work there panicked")));
            thread.join().unwrap_or_else(|_| panicked())
        })
    }
}

/// The share's directory, writable: the server's own mount of it is not.
fn writable_root() -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, SHARED_DIR, flags)?;
    mounts::set_read_only(&tree, false, false)?;
    Ok(tree)
}

fn attach(name: &str, tree: &OwnedFd, is_dir: bool) -> io::Result<()> {
    let root = writable_root()?;
    if is_dir {
        rustix::fs::mkdirat(&root, name, Mode::from_raw_mode(0o755))?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&root, name, flags, Mode::from_raw_mode(0o644))?;
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(place(name), flags, Mode::empty());
    let moved = match opened {
        Ok(place) => mounts::attach(tree, place),
        Err(error) => Err(error.into()),
    };
    if moved.is_err() {
        unlink(&root, name);
    }
    moved
}

fn detach(name: &str) {
    let _ = rustix::mount::unmount(place(name), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    if let Ok(root) = writable_root() {
        unlink(&root, name);
    }
}

fn unlink(root: &OwnedFd, name: &str) {
    if rustix::fs::unlinkat(root, name, AtFlags::REMOVEDIR).is_err() {
        let _ = rustix::fs::unlinkat(root, name, AtFlags::empty());
    }
}

fn place(name: &str) -> PathBuf {
    Path::new(SHARED_DIR).join(std::ffi::OsStr::from_bytes(name.as_bytes()))
}

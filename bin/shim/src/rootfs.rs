//! A container's root filesystem, from what containerd says it is.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bulkhead_bundle::{Bind, Stack};
use bulkhead_share::Detached;
use containerd_shim_protos::api::Mount;
use oci_spec::runtime::Spec;
use rustix::fs::{FileType, Mode, OFlags};

use crate::block_root;
use crate::failure::{Failure, Outcome};
use crate::layers::{Known, Layers};
use crate::{mount_points, mounted_images};

/// Layers of a root filesystem at most; overlayfs itself takes 500.
const LAYER_LIMIT: usize = 500;

/// What a root filesystem is.
pub(crate) enum Root {
    /// Directories of the host, to be shared.
    Tree(Detached),
    /// A directory of the host on which the container writes.
    Directory(Detached),
    /// Images of them, bottom to top.
    Layers(Vec<OwnedFd>),
    /// A block device or an image of a file system, to be a disk.
    Image(Image),
}

/// A root filesystem, opened.
pub(crate) struct Opened {
    pub(crate) root: Root,
    /// Layers that could have images, and have none.
    pub(crate) wanting: Vec<PathBuf>,
}

impl From<Root> for Opened {
    fn from(root: Root) -> Self {
        Self {
            root,
            wanting: Vec::new(),
        }
    }
}

/// A file system nobody has mounted on the host.
pub(crate) struct Image {
    pub(crate) file: OwnedFd,
    pub(crate) filesystem: &'static str,
    pub(crate) read_only: bool,
}

/// Opens the bundle's own directory as the root filesystem of a container on its
/// own. What it writes is there afterwards, as with any OCI runtime.
pub(crate) fn own(bundle: &Path, spec: &Spec) -> Outcome<Opened> {
    let path = in_bundle(bundle, spec);
    let root = spec.root().as_ref();
    let read_only = root.and_then(|root| root.readonly()) == Some(true);
    let opened = directory(&path)?;
    let tree = Detached::bind(&opened, &path, read_only);
    if read_only {
        mount_points::make(opened, spec)?;
    }
    let tree = tree.map_err(|error| Failure::from_error(&error))?;
    Ok(Root::Directory(tree).into())
}

/// Opens a snapshot as the root filesystem of a container on its own, which is started
/// again with what it wrote, and whose snapshot is what others look at. None: it is not
/// to be written, or no directory.
pub(crate) fn written(mounts: &[Mount]) -> Outcome<Option<Opened>> {
    let [mount] = mounts else { return Ok(None) };
    if mount.options.iter().any(|word| word == "ro") {
        return Ok(None);
    }
    let tree = match mount.type_.as_str() {
        "bind" => {
            let path = Path::new(&mount.source);
            let bound = Detached::bind(&directory(path)?, path, false);
            bound.map_err(|error| Failure::from_error(&error))?
        }
        "overlay" => {
            let stack = Stack::of(&mount.options);
            if stack.upper.is_none() || stack.lower.is_empty() {
                return Ok(None);
            }
            lay(&stack, false)?
        }
        _ => return Ok(None),
    };
    Ok(Some(Root::Directory(tree).into()))
}

/// Where the spec has the root filesystem.
fn in_bundle(bundle: &Path, spec: &Spec) -> PathBuf {
    let root = spec.root().as_ref().map(|root| root.path().clone());
    bundle.join(root.unwrap_or_else(|| "rootfs".into()))
}

/// Opens the root filesystem: the snapshot containerd gives, or the bundle's
/// own directory.
pub(crate) fn open(
    mounts: &[Mount],
    bundle: &Path,
    spec: &Spec,
    images: Option<&Layers>,
) -> Outcome<Opened> {
    let layers = match mounts {
        [] => vec![in_bundle(bundle, spec)],
        [mount] => match block_root::filesystem(mount)? {
            Some(filesystem) => {
                let image = block_root::open(mount, filesystem)?;
                return Ok(Root::Image(image).into());
            }
            None => layers(mount)?,
        },
        _ => {
            return Err(Failure::invalid(
                "a root filesystem of several mounts is not supported; use the overlayfs or \
                 native snapshotter",
            ));
        }
    };
    let opened = opened(layers.iter().map(PathBuf::as_path))?;
    let committed = are_committed(mounts, &layers);
    if committed && let Some(mut images) = mounted_images::find(&opened) {
        images.reverse();
        return Ok(Root::Layers(images).into());
    }
    let shared = || {
        let tree = Detached::union(&opened, bundle);
        tree.map(Root::Tree)
            .map_err(|error| Failure::from_error(&error))
    };
    let known = match images.filter(|_| committed) {
        Some(images) => images.find(&opened),
        None => Known::Unfit,
    };
    match known {
        Known::Images(mut images) => {
            images.reverse();
            Ok(Root::Layers(images).into())
        }
        Known::Wanting => Ok(Opened {
            root: shared()?,
            wanting: layers,
        }),
        Known::Unfit => Ok(shared()?.into()),
    }
}

/// Are these layers others stand on, which nobody changes any more? A writable
/// one that is not empty is among them otherwise.
fn are_committed(mounts: &[Mount], layers: &[PathBuf]) -> bool {
    let overlay = |mount: &&Mount| mount.type_ == "overlay";
    mounts.iter().find(overlay).is_some_and(|mount| {
        let options = mount.options.iter();
        let mut upper = options.filter_map(|option| option.strip_prefix("upperdir="));
        !upper.any(|upper| layers.iter().any(|layer| layer == Path::new(upper)))
    })
}

/// The directories of a snapshot, topmost first.
fn layers(mount: &Mount) -> Outcome<Vec<PathBuf>> {
    match mount.type_.as_str() {
        "bind" => Ok(vec![PathBuf::from(&mount.source)]),
        "overlay" => {
            let option = |name: &str| {
                let mut options = mount.options.iter();
                options.find_map(|option| option.strip_prefix(name))
            };
            let lower = option("lowerdir=").ok_or_else(|| {
                Failure::invalid("the overlay snapshot names no `lowerdir`".to_owned())
            })?;
            let upper = option("upperdir=").map(PathBuf::from);
            // An empty upper directory, as a new container has it, adds
            // nothing; the guest has a writable layer of its own.
            let upper = upper.filter(|upper| !is_empty(upper));
            let lower = lower.split(':').map(PathBuf::from);
            Ok(upper.into_iter().chain(lower).collect())
        }
        other => Err(Failure::invalid(format!(
            "a snapshot of the type `{other}` is not supported yet; use the overlayfs or native \
             snapshotter, or one that gives ext4 or EROFS"
        ))),
    }
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// Opens the directories of layers.
fn opened<'a>(layers: impl Iterator<Item = &'a Path>) -> Outcome<Vec<OwnedFd>> {
    let layers: Vec<&Path> = layers.take(LAYER_LIMIT + 1).collect();
    match layers.len() > LAYER_LIMIT {
        true => Err(Failure::invalid(format!(
            "the image has more than {LAYER_LIMIT} layers"
        ))),
        false => layers.into_iter().map(directory).collect(),
    }
}

/// Opens a directory of the host.
pub(crate) fn directory(path: &Path) -> Outcome<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| {
        Failure::invalid(format!(
            "the layer `{}` cannot be opened: {error}",
            path.display()
        ))
    })
}

/// The type of a file system of huge pages: statfs(2).
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// Opens what a container is given of the host. What is opened here is what is
/// shared, whatever happens to the path afterwards.
pub(crate) fn source(bind: &Bind) -> Outcome<OwnedFd> {
    let shown = bind.source.display();
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let failed = |error: rustix::io::Errno| {
        Failure::invalid(format!(
            "the mount source `{shown}` cannot be opened: {error}"
        ))
    };
    let opened = rustix::fs::open(&bind.source, flags, Mode::empty()).map_err(failed)?;
    let stat = rustix::fs::fstat(&opened).map_err(failed)?;
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory | FileType::RegularFile => None,
        FileType::Socket => Some("socket"),
        FileType::Fifo => Some("named pipe"),
        _ => Some("device"),
    };
    if let Some(what) = what {
        return Err(Failure::invalid(format!(
            "the mount source `{shown}` is a {what}; only directories and regular files can be \
             shared with another kernel"
        )));
    }
    refuse_huge_pages(&opened, &shown)?;
    Ok(opened)
}

/// What is written there through a file server fails, and what is mapped there is
/// made of ordinary pages: nobody would get what was asked for.
fn refuse_huge_pages(opened: &OwnedFd, shown: &impl std::fmt::Display) -> Outcome<()> {
    let filesystem = rustix::fs::fstatfs(opened).map_err(|error| {
        Failure::invalid(format!(
            "the mount source `{shown}` cannot be looked at: {error}"
        ))
    })?;
    match filesystem.f_type as u64 == HUGETLBFS_MAGIC {
        false => Ok(()),
        true => Err(Failure::invalid(format!(
            "the mount source `{shown}` is a volume of the host's huge pages, which another kernel \
             cannot be given; leave it out (a program has its own kernel's huge pages by madvise(2))"
        ))),
    }
}

/// What [`source`] opened, to be shared. Nothing that the host mounts there later: a guest
/// that has looked at it would keep the host from unmounting it, and could write it where
/// the volume may only be read.
pub(crate) fn bind(opened: &OwnedFd, bind: &Bind) -> Outcome<Detached> {
    if bind.later {
        tracing::warn!(
            source = %bind.source.display(),
            "what the host mounts there later is not shared with the guest"
        );
    }
    Detached::bind(opened, &bind.source, bind.read_only)
        .map_err(|error| Failure::from_error(&error))
}

/// Lays directories of the host over each other, to be shared.
pub(crate) fn lay(stack: &Stack, read_only: bool) -> Outcome<Detached> {
    let mut layers = opened(stack.lower.iter().map(PathBuf::as_path))?;
    let top = stack.lower.first();
    let path = top.map_or(Path::new(""), PathBuf::as_path);
    let laid = match &stack.upper {
        Some((upper, work)) if !read_only => {
            let (upper, work) = (directory(upper)?, directory(work)?);
            Detached::writable_union(&layers, &upper, &work, path)
        }
        Some((upper, _)) => {
            layers.insert(0, directory(upper)?);
            Detached::union(&layers, path)
        }
        None => Detached::union(&layers, path),
    };
    laid.map_err(|error| Failure::from_error(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_snapshot_is_its_directories_topmost_first() {
        let dir = tempfile::tempdir().unwrap();
        let upper = dir.path().join("upper");
        std::fs::create_dir(&upper).unwrap();
        let mount = Mount {
            type_: "overlay".into(),
            options: vec![
                "workdir=/w".into(),
                format!("upperdir={}", upper.display()),
                "lowerdir=/b:/a".into(),
            ],
            ..Default::default()
        };
        let lower = [PathBuf::from("/b"), PathBuf::from("/a")];
        assert_eq!(layers(&mount).unwrap(), lower);
        std::fs::write(upper.join("file"), "x").unwrap();
        assert_eq!(layers(&mount).unwrap()[0], upper);
        assert_eq!(layers(&mount).unwrap().len(), 3);
    }

    #[test]
    fn other_snapshots_and_sources_are_refused_by_name() {
        let mount = Mount {
            type_: "zfs".into(),
            ..Default::default()
        };
        assert!(layers(&mount).unwrap_err().to_string().contains("zfs"));
        let device = Bind {
            mount: 0,
            source: "/dev/null".into(),
            read_only: false,
            later: false,
        };
        assert!(
            source(&device)
                .unwrap_err()
                .to_string()
                .contains("a device")
        );
    }
}

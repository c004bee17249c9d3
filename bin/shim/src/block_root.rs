//! A root filesystem that is a block device or an image: what block snapshotters
//! (devmapper, blockfile) and EROFS give. The host mounts none of them; a file
//! system is for the guest's kernel to read.

use std::path::Path;

use bulkhead_provision::block;
use containerd_shim_protos::api::Mount;

use crate::failure::{Failure, Outcome};
use crate::rootfs::Image;

/// File systems the guest's kernel has.
const FILESYSTEMS: [&str; 4] = ["ext2", "ext3", "ext4", "erofs"];

/// Options that say nothing the guest does not do by itself: it reads disks as
/// they are, and updates no access times.
const IDLE: [&str; 6] = ["rw", "loop", "discard", "nodiscard", "noatime", "relatime"];

/// The file system of a block mount; none: it is a mount of another kind.
pub(crate) fn filesystem(mount: &Mount) -> Outcome<Option<&'static str>> {
    let named = |own: &&str| *own == mount.type_;
    match FILESYSTEMS.into_iter().find(named) {
        Some(own) => Ok(Some(own)),
        None if mount.type_ == "xfs" => Err(Failure::invalid(
            "the guest's kernel has no `xfs`; let the snapshotter make ext4 (devmapper: \
             `fs_type = \"ext4\"`)",
        )),
        None => Ok(None),
    }
}

/// Opens what is to become a disk, to be read only where the mount says so. The
/// file system that can only be read is.
pub(crate) fn open(mount: &Mount, filesystem: &'static str) -> Outcome<Image> {
    let asked = block::is_read_only(&mount.options, &IDLE).map_err(|other| {
        Failure::invalid(format!(
            "the option `{other}` of the `{filesystem}` snapshot is not supported"
        ))
    })?;
    let read_only = asked || filesystem == "erofs";
    let path = Path::new(&mount.source);
    if !path.is_absolute() {
        return Err(Failure::invalid(format!(
            "the `{filesystem}` snapshot has no absolute source, but `{}`",
            mount.source
        )));
    }
    let file = block::image(path, read_only)
        .map_err(|error| Failure::invalid(bulkhead_provision::chain(&error)))?;
    Ok(Image {
        file,
        filesystem,
        read_only,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &Path, options: &[&str]) -> Mount {
        Mount {
            type_: kind.to_owned(),
            source: source.display().to_string(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            ..Default::default()
        }
    }

    fn opened(mount: &Mount) -> Outcome<Image> {
        open(mount, filesystem(mount)?.unwrap())
    }

    #[test]
    fn an_image_is_read_only_when_the_mount_or_its_kind_says_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (kind, options, read_only) in [
            ("ext4", &["loop"][..], false),
            ("ext4", &["rw", "discard"], false),
            ("ext4", &["ro", "loop"], true),
            ("erofs", &["loop"], true),
        ] {
            let image = opened(&mount(kind, file.path(), options)).unwrap();
            assert_eq!((image.filesystem, image.read_only), (kind, read_only));
            let flags = rustix::fs::fcntl_getfl(&image.file).unwrap();
            assert_eq!(flags.contains(rustix::fs::OFlags::RDWR), !read_only);
        }
    }

    #[test]
    fn what_the_guest_cannot_do_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (kind, source, options, word) in [
            ("xfs", file.path(), &[][..], "xfs"),
            ("ext4", file.path(), &["errors=panic"], "errors=panic"),
            (
                "erofs",
                file.path(),
                &["device=/dev/sda"],
                "device=/dev/sda",
            ),
            ("ext4", Path::new("image"), &[], "absolute"),
            ("ext4", Path::new("/dev/null"), &[], "/dev/null"),
            ("ext4", Path::new("/none/there"), &[], "/none/there"),
        ] {
            let text = opened(&mount(kind, source, options)).err().unwrap();
            assert!(text.to_string().contains(word), "{text}");
        }
        let overlay = mount("overlay", Path::new("overlay"), &[]);
        assert!(filesystem(&overlay).unwrap().is_none());
    }
}

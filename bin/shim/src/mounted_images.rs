//! Layers that are images already, and that the host has mounted: containerd's EROFS
//! snapshotter. The guest's kernel reads the images themselves instead of asking the
//! host for each file.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bulkhead_provision::block;
use rustix::fs::FileType;

use crate::mountinfo::{self, Mount};

/// statfs(2), and the first word of a superblock: fs/erofs/erofs_fs.h.
const MAGIC: u32 = 0xE0F5_E1E2;

/// Where an image has its superblock, and how much of it is looked at, bytes.
const SUPERBLOCK: (u64, usize) = (1024, 128);

/// Features of a superblock the guest's kernel reads: all but further devices, which
/// are other files.
const FEATURES: u32 = 0x77;
/// The feature of naming its compressions.
const NAMED_COMPRESSIONS: u32 = 0x2;
/// The one the guest's kernel has: LZ4.
const COMPRESSIONS: u16 = 0x1;

/// The image each of the opened layers is mounted from, in their order; none, if one
/// of them is not, or not of what a guest can read.
pub(crate) fn find(layers: &[OwnedFd]) -> Option<Vec<OwnedFd>> {
    let is_one = |layer| mountinfo::is_root(layer, MAGIC.into()).unwrap_or(false);
    if !layers.iter().all(is_one) {
        return None;
    }
    let mounts = mountinfo::read().ok()?;
    layers.iter().map(|layer| image(layer, &mounts)).collect()
}

fn image(layer: &OwnedFd, mounts: &[Mount]) -> Option<OwnedFd> {
    let id = mountinfo::id_of(layer).ok()?;
    let mount = mounts.iter().find(|mount| mount.id == id)?;
    if mount.kind != "erofs" || mount.root != Path::new("/") {
        return None;
    }
    let image = block::image(&file(&mount.source)?, true).ok()?;
    is_readable(&image).then_some(image)
}

/// The file behind a mount: itself (since Linux 6.12), or that of a loop device,
/// loop(4).
fn file(source: &Path) -> Option<PathBuf> {
    let Some(number) = source
        .to_str()
        .and_then(|own| own.strip_prefix("/dev/loop"))
    else {
        return source.is_absolute().then(|| source.to_owned());
    };
    let number: u32 = number.parse().ok()?;
    let backing = format!("/sys/block/loop{number}/loop/backing_file");
    let path = std::fs::read_to_string(backing).ok()?;
    Some(PathBuf::from(path.trim_end_matches('\n')))
}

/// Is it a file, with an EROFS the guest's kernel knows?
fn is_readable(image: &OwnedFd) -> bool {
    let stat = rustix::fs::fstat(image);
    let regular =
        stat.is_ok_and(|own| FileType::from_raw_mode(own.st_mode) == FileType::RegularFile);
    let mut bytes = [0; SUPERBLOCK.1];
    let read = rustix::io::pread(image, &mut bytes, SUPERBLOCK.0);
    regular && read == Ok(bytes.len()) && is_known(&bytes)
}

/// `struct erofs_super_block`.
fn is_known(superblock: &[u8; SUPERBLOCK.1]) -> bool {
    let word = |at: usize| {
        let bytes = superblock[at..at + 4].try_into();
        u32::from_le_bytes(bytes.unwrap_or_default())
    };
    let (features, compressions) = (word(80), word(84) as u16);
    let named = features & NAMED_COMPRESSIONS != 0;
    word(0) == MAGIC && features & !FEATURES == 0 && (!named || compressions & !COMPRESSIONS == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn superblock(features: u32, compressions: u16) -> [u8; SUPERBLOCK.1] {
        let mut bytes = [0; SUPERBLOCK.1];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[80..84].copy_from_slice(&features.to_le_bytes());
        bytes[84..86].copy_from_slice(&compressions.to_le_bytes());
        bytes
    }

    #[test]
    fn an_image_the_guest_could_not_read_is_shared_instead() {
        assert!(is_known(&superblock(0, 0)));
        assert!(is_known(&superblock(0x1 | 0x4 | 0x40, 0xffff)));
        assert!(is_known(&superblock(0x2, 0x1)));
        for (features, compressions) in [(0x2, 0x2), (0x2, 0x9), (0x8, 0), (0x80, 0)] {
            assert!(!is_known(&superblock(features, compressions)), "{features}");
        }
        assert!(!is_known(&[0; SUPERBLOCK.1]));
    }

    #[test]
    fn what_is_not_mounted_from_an_image_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let layer = crate::rootfs::directory(dir.path()).unwrap();
        assert!(find(&[layer]).is_none());
        assert_eq!(
            file(Path::new("/a/layer.erofs")),
            Some("/a/layer.erofs".into())
        );
        for nothing in [
            "tmpfs",
            "/dev/loop-1",
            "/dev/loop../../x",
            "/dev/loop4000000",
        ] {
            assert_eq!(file(Path::new(nothing)), None, "{nothing}");
        }
    }

    proptest! {
        #[test]
        fn no_superblock_panics(bytes in proptest::array::uniform32(any::<[u8; 4]>())) {
            let bytes: Vec<u8> = bytes.concat();
            let _ = is_known(&bytes.try_into().unwrap());
        }
    }
}

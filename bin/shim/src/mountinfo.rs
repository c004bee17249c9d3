//! The mounts of this process's namespace: proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, StatxAttributes, StatxFlags};

/// Most that is read, bytes: mounts of ten thousand pods.
const LIMIT: u64 = 64 << 20;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) id: u64,
    /// "MAJOR:MINOR"; the same for all mounts of one filesystem.
    pub(crate) device: String,
    /// What of the filesystem is mounted.
    pub(crate) root: PathBuf,
    /// Where.
    pub(crate) point: PathBuf,
    /// The filesystem's type.
    pub(crate) kind: String,
    /// What it is made of, in words of its type.
    pub(crate) source: PathBuf,
}

/// All mounts.
pub(crate) fn read() -> std::io::Result<Vec<Mount>> {
    let mut text = Vec::new();
    let file = std::fs::File::open("/proc/self/mountinfo")?;
    file.take(LIMIT).read_to_end(&mut text)?;
    Ok(parse(&text))
}

/// Is it a directory at the root of a mount of this type of filesystem? statfs(2),
/// statx(2).
pub(crate) fn is_root(opened: &OwnedFd, filesystem: u64) -> std::io::Result<bool> {
    if rustix::fs::fstatfs(opened)?.f_type as u64 != filesystem {
        return Ok(false);
    }
    let stat = rustix::fs::statx(opened, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    let kind = FileType::from_raw_mode(stat.stx_mode.into());
    let is_root = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    Ok(kind == FileType::Directory && is_root)
}

/// The mount a descriptor was opened through. proc_pid_fdinfo(5).
pub(crate) fn id_of(opened: &OwnedFd) -> std::io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", opened.as_raw_fd()))?;
    let mut ids = text.lines().filter_map(|line| line.strip_prefix("mnt_id:"));
    let id = ids.next().and_then(|id| id.trim().parse().ok());
    id.ok_or_else(|| std::io::Error::other("the kernel does not tell a descriptor's mount"))
}

/// Lines that are none are left out.
fn parse(text: &[u8]) -> Vec<Mount> {
    let lines = text.split(|byte| *byte == b'\n');
    lines.filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse().ok();
    let id = number(words.next()?)?;
    let device = String::from_utf8(words.nth(1)?.to_vec()).ok()?;
    let (root, point) = (path(words.next()?), path(words.next()?));
    words.find(|word| *word == b"-")?;
    Some(Mount {
        id,
        device,
        root,
        point,
        kind: String::from_utf8(words.next()?.to_vec()).ok()?,
        source: path(words.next()?),
    })
}

/// A path, in which spaces and such are written as `\` and three octal digits.
fn path(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, after @ ..] = rest {
        match rest {
            [
                b'\\',
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ] => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mounts_are_read_with_their_roots_and_strange_names() {
        let text = b"\
29 1 0:26 / / rw,relatime shared:1 - ext4 /dev/vda rw
740 29 0:91 /sub\\040dir /var/lib/kubelet/x\\134y rw - tmpfs tmpfs rw,size=8192k
nonsense
741 29 0:91 /
";
        let found = parse(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].point, Path::new("/"));
        let expected = Mount {
            id: 740,
            device: "0:91".to_owned(),
            root: "/sub dir".into(),
            point: "/var/lib/kubelet/x\\y".into(),
            kind: "tmpfs".to_owned(),
            source: "tmpfs".into(),
        };
        assert_eq!(found[1], expected);
    }

    proptest! {
        #[test]
        fn no_text_panics(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(&bytes);
        }
    }
}

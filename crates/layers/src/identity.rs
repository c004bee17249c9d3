//! What tells one directory from every other, then and now.

use std::fmt;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Statx, StatxFlags};

/// A directory: the file system it is on, its number there, and when both it
/// and its list of names came to be what they are.
///
/// statx(2): a number is given again only to a file made later, and a time of
/// birth, which nobody can set, tells them apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(String);

impl Identity {
    /// Of an opened directory; None where its file system keeps no times of
    /// birth.
    pub fn of(dir: impl AsFd) -> Option<Self> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let statx = rustix::fs::statx(dir, "", AtFlags::EMPTY_PATH, wanted).ok()?;
        let known = StatxFlags::from_bits_retain(statx.stx_mask);
        known.contains(wanted).then(|| Self::from(&statx))
    }

    fn from(statx: &Statx) -> Self {
        let (birth, change) = (statx.stx_btime, statx.stx_mtime);
        Self(format!(
            "{:x}-{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
            statx.stx_dev_major,
            statx.stx_dev_minor,
            statx.stx_ino,
            birth.tv_sec,
            birth.tv_nsec,
            change.tv_sec,
            change.tv_nsec
        ))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &std::path::Path) -> Option<Identity> {
        Identity::of(std::fs::File::open(path).unwrap())
    }

    #[test]
    fn a_directory_is_itself_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::create_dir(&one).unwrap();
        std::fs::create_dir(&two).unwrap();
        let before = of(&one).unwrap();
        assert_eq!(of(&one).unwrap(), before);
        assert_ne!(of(&two).unwrap(), before);
        std::fs::remove_dir(&one).unwrap();
        std::fs::create_dir(&one).unwrap();
        assert_ne!(of(&one).unwrap(), before);
        let changed = of(&one).unwrap();
        std::fs::write(one.join("file"), "").unwrap();
        assert_ne!(of(&one).unwrap(), changed);
    }
}

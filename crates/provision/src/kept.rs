//! What one start leaves for the next: things that are always the same and take
//! longer to make than to copy.
//!
//! They are in memory (`/run`), so that none is older than the boot of the host
//! and a crash leaves no half of one. A new file gets its name when it is whole.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;

/// Files of a kind. One more, and all are given up: somebody asks for
/// everything once.
const COUNT_LIMIT: usize = 16;

/// A directory only this user can write in.
#[derive(Debug)]
pub(crate) struct Kept {
    dir: OwnedFd,
}

impl Kept {
    /// The user's own files of a kind. None where there is no directory for
    /// them, or somebody else could write in it.
    pub(crate) fn open(kind: &str) -> Option<Self> {
        let path = place()?.join(kind);
        Self::at(&path)
            .inspect_err(|error| {
                tracing::debug!(%error, path = %path.display(), "nothing is kept for the next start");
            })
            .ok()
    }

    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&dir)?;
        let ours = stat.st_uid == rustix::process::geteuid().as_raw();
        if !ours || stat.st_mode & 0o022 != 0 {
            return Err(io::Error::other("others can write in this directory"));
        }
        Ok(Self { dir })
    }

    /// A file, to be read.
    pub(crate) fn get(&self, name: &str) -> Option<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, name, flags, Mode::empty()).ok()
    }

    /// Keeps a file that `fill` writes. Without it the next start does the work
    /// again, which is no reason to fail this one: an error is only logged.
    pub(crate) fn put(&self, name: &str, fill: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>) {
        if let Err(error) = self.try_put(name, fill) {
            tracing::debug!(%error, name, "not kept for the next start");
        }
    }

    fn try_put(
        &self,
        name: &str,
        fill: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.make_room()?;
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, ".", flags, Mode::from_raw_mode(0o400))?;
        fill(file.as_fd())?;
        let number = format!("/proc/self/fd/{}", file.as_raw_fd());
        match rustix::fs::linkat(CWD, number, &self.dir, name, AtFlags::SYMLINK_FOLLOW) {
            // Another start was first.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn make_room(&self) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.dir)? {
            let name = entry?.file_name().to_owned();
            if !name.to_bytes().starts_with(b".") {
                names.push(name);
            }
        }
        if names.len() < COUNT_LIMIT {
            return Ok(());
        }
        for name in names {
            match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn place() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some("/run/bulkhead/kept".into());
    }
    let runtime = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    runtime.is_absolute().then(|| runtime.join("bulkhead/kept"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::at(dir.path()).unwrap();
        kept.put("half", |_| Err(io::ErrorKind::Other.into()));
        assert!(kept.get("half").is_none());
        for text in ["first", "second"] {
            kept.put("whole", |file| {
                rustix::io::write(file, text.as_bytes())?;
                Ok(())
            });
        }
        let text = io::read_to_string(std::fs::File::from(kept.get("whole").unwrap()));
        assert_eq!(text.unwrap(), "first");
    }

    #[test]
    fn many_files_do_not_fill_the_memory() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::at(dir.path()).unwrap();
        for number in 0..40 {
            kept.put(&number.to_string(), |_| Ok(()));
        }
        let count = std::fs::read_dir(dir.path()).unwrap().count();
        assert!((1..=COUNT_LIMIT).contains(&count), "{count} kept");
    }

    #[test]
    fn a_directory_others_can_write_in_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        Kept::at(dir.path()).unwrap_err();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        Kept::at(&link).unwrap_err();
    }
}

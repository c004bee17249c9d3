//! A directory that stands for a machine's `/`, and the files below it.
//!
//! Every path is resolved by the kernel with that directory as root
//! (openat2(2), `RESOLVE_IN_ROOT`), so that no symbolic link leads out of it;
//! the last part of a path is never followed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

/// Deepest directory that is removed or listed.
const DEPTH_LIMIT: usize = 32;

/// What a file being written is called until it is whole, behind a dot and
/// before the name of the file.
const STAGED: &str = "bulkhead-new.";

/// Why a file of the machine could not be handled.
#[derive(Debug, thiserror::Error)]
#[error("`{}` cannot be {what}", path.display())]
pub struct FileError {
    /// The file, below the machine's root.
    pub path: PathBuf,
    /// What was tried: "read", "written".
    pub what: &'static str,
    /// What the kernel says.
    #[source]
    pub source: io::Error,
}

/// Owner and permissions of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Meta {
    /// Permission bits, without the file's type.
    pub mode: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// A regular file's bytes and its owner and permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// What is in it.
    pub bytes: Vec<u8>,
    /// Whose it is.
    pub meta: Meta,
}

/// An opened root.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    path: PathBuf,
}

type Result<T> = std::result::Result<T, FileError>;

fn failed<'a>(path: &'a Path, what: &'static str) -> impl Fn(Errno) -> FileError + 'a {
    move |errno| FileError {
        path: path.to_owned(),
        what,
        source: errno.into(),
    }
}

fn failed_io<'a>(path: &'a Path, what: &'static str) -> impl Fn(io::Error) -> FileError + 'a {
    move |source| FileError {
        path: path.to_owned(),
        what,
        source,
    }
}

/// `None` for what is not there.
fn present<T>(result: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

impl Tree {
    /// Opens a root.
    ///
    /// # Errors
    /// When it is no directory that can be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(failed(path, "opened"))?;
        Ok(Self {
            root,
            path: path.to_owned(),
        })
    }

    /// Where the root itself is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path outside of the root, for programs that are told a path.
    #[must_use]
    pub fn outside(&self, path: &Path) -> PathBuf {
        self.path.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        loop {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                // A rename somewhere raced with the resolution. openat2(2).
                Err(Errno::AGAIN) => (),
                result => return result,
            }
        }
    }

    /// The directory a path is in, and its name there.
    fn parent<'a>(&self, path: &'a Path) -> rustix::io::Result<(OwnedFd, &'a Path)> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let dir = path.parent().ok_or(Errno::INVAL)?;
        let dir = self.resolve(dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok((dir, Path::new(name)))
    }

    /// What is there, without following a symbolic link; `None` for nothing.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn kind(&self, path: &Path) -> Result<Option<FileType>> {
        let stat = present(
            self.parent(path)
                .and_then(|(dir, name)| rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)),
        );
        let stat = stat.map_err(failed(path, "looked at"))?;
        Ok(stat.map(|stat| FileType::from_raw_mode(stat.st_mode)))
    }

    /// Opens a regular file; `None` when it is not there.
    ///
    /// # Errors
    /// What the kernel says; `ELOOP` for a symbolic link, `EINVAL` for what is
    /// no regular file.
    pub fn open_file(&self, path: &Path) -> Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = self
            .parent(path)
            .and_then(|(dir, name)| rustix::fs::openat(dir, name, flags, Mode::empty()));
        let Some(fd) = present(opened).map_err(failed(path, "opened"))? else {
            return Ok(None);
        };
        let stat = rustix::fs::fstat(&fd).map_err(failed(path, "looked at"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(failed(path, "used: it is no regular file")(Errno::INVAL));
        }
        Ok(Some(fd.into()))
    }

    /// Reads a regular file of at most `limit` bytes; `None` when it is not
    /// there.
    ///
    /// # Errors
    /// As [`Tree::open_file`], and `EFBIG` for a larger file.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Content>> {
        let Some(file) = self.open_file(path)? else {
            return Ok(None);
        };
        let stat = rustix::fs::fstat(&file).map_err(failed(path, "looked at"))?;
        let mut bytes = Vec::new();
        file.take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(failed_io(path, "read"))?;
        if bytes.len() as u64 > limit {
            return Err(failed(path, "read: it is too large")(Errno::FBIG));
        }
        let meta = Meta {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
        };
        Ok(Some(Content { bytes, meta }))
    }

    /// Replaces a file whole: staged beside it, synced, renamed, synced.
    ///
    /// # Errors
    /// What the kernel says; the old file is as it was then.
    pub fn write(&self, path: &Path, bytes: &[u8], meta: Meta) -> Result<()> {
        let staged = staged_name(path);
        let (dir, name) = self.parent(path).map_err(failed(path, "written"))?;
        let _ = rustix::fs::unlinkat(&dir, &staged, AtFlags::empty());
        let written = write_new(&dir, &staged, bytes, meta)
            .and_then(|()| Ok(rustix::fs::renameat(&dir, &staged, &dir, name)?))
            .and_then(|()| Ok(rustix::fs::fsync(&dir)?));
        if written.is_err() {
            let _ = rustix::fs::unlinkat(&dir, &staged, AtFlags::empty());
        }
        written.map_err(failed_io(path, "written"))
    }

    /// Removes a file or symbolic link; nothing there is good too. What a
    /// killed [`Tree::write`] left beside it goes as well.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let Some((dir, name)) = present(self.parent(path)).map_err(failed(path, "removed"))? else {
            return Ok(());
        };
        for name in [staged_name(path).as_path(), name] {
            present(rustix::fs::unlinkat(&dir, name, AtFlags::empty()))
                .map_err(failed(path, "removed"))?;
        }
        rustix::fs::fsync(&dir).map_err(failed(path, "removed"))
    }

    /// Where a symbolic link points; `None` for no link.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn link(&self, path: &Path) -> Result<Option<PathBuf>> {
        if self.kind(path)? != Some(FileType::Symlink) {
            return Ok(None);
        }
        let target = self
            .parent(path)
            .and_then(|(dir, name)| rustix::fs::readlinkat(dir, name, Vec::new()));
        let target = target.map_err(failed(path, "read"))?;
        Ok(Some(target.to_string_lossy().into_owned().into()))
    }

    /// Makes a symbolic link, or switches it, in one step.
    ///
    /// # Errors
    /// What the kernel says; an old link is as it was then.
    pub fn set_link(&self, path: &Path, target: &Path) -> Result<()> {
        let staged = staged_name(path);
        let switch = || {
            let (dir, name) = self.parent(path)?;
            present(rustix::fs::unlinkat(&dir, &staged, AtFlags::empty()))?;
            rustix::fs::symlinkat(target, &dir, &staged)?;
            rustix::fs::renameat(&dir, &staged, &dir, name)?;
            rustix::fs::fsync(&dir)
        };
        switch().map_err(failed(path, "switched"))
    }

    /// Makes a directory and those above it that are missing, mode 0755, and
    /// returns those it made, outermost first.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn make_dirs(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let mut made = Vec::new();
        for dir in self.missing_dirs(path)? {
            let (above, name) = self.parent(&dir).map_err(failed(&dir, "made"))?;
            rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755))
                .and_then(|()| rustix::fs::fsync(&above))
                .map_err(failed(&dir, "made"))?;
            made.push(dir);
        }
        Ok(made)
    }

    /// The directories above and at a path that do not exist, outermost first.
    ///
    /// # Errors
    /// What the kernel says; `ENOTDIR` when something else is in the way.
    pub fn missing_dirs(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let mut missing = Vec::new();
        for dir in path.ancestors() {
            match self.resolve(dir, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(_) => break,
                Err(Errno::NOENT) => missing.push(dir.to_owned()),
                Err(errno) => return Err(failed(dir, "used as a directory")(errno)),
            }
        }
        missing.reverse();
        Ok(missing)
    }

    /// Removes a directory if it is empty.
    ///
    /// # Errors
    /// What the kernel says, but not that it is missing or has something in it.
    pub fn remove_empty_dir(&self, path: &Path) -> Result<()> {
        let removed = self
            .parent(path)
            .and_then(|(dir, name)| rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR));
        match present(removed) {
            Ok(_) | Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
            Err(errno) => Err(failed(path, "removed")(errno)),
        }
    }

    /// Renames within the root; `exchange` swaps two that both exist.
    ///
    /// # Errors
    /// What the kernel says; `EEXIST` when the target exists.
    pub fn rename(&self, from: &Path, to: &Path, exchange: bool) -> Result<()> {
        use rustix::fs::RenameFlags;
        let flags = if exchange {
            RenameFlags::EXCHANGE
        } else {
            RenameFlags::NOREPLACE
        };
        let rename = || {
            let (from_dir, from) = self.parent(from)?;
            let (to_dir, to) = self.parent(to)?;
            rustix::fs::renameat_with(&from_dir, from, &to_dir, to, flags)?;
            rustix::fs::fsync(&to_dir)?;
            rustix::fs::fsync(&from_dir)
        };
        rename().map_err(failed(from, "renamed"))
    }

    /// Names in a directory, sorted; `None` when it is not there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn list(&self, path: &Path) -> Result<Option<Vec<String>>> {
        let opened = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY);
        let Some(dir) = present(opened).map_err(failed(path, "listed"))? else {
            return Ok(None);
        };
        let mut names = names(&dir).map_err(failed(path, "listed"))?;
        names.sort();
        Ok(Some(names))
    }

    /// Removes a directory with everything in it; nothing there is good too.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_tree(&self, path: &Path) -> Result<()> {
        // On a read-only file system, removing nothing fails.
        if self.kind(path)?.is_none() {
            return Ok(());
        }
        let Some((dir, name)) = present(self.parent(path)).map_err(failed(path, "removed"))? else {
            return Ok(());
        };
        remove_below(&dir, name, DEPTH_LIMIT)
            .and_then(|()| rustix::fs::fsync(&dir))
            .map_err(failed(path, "removed"))
    }

    /// Makes a file that must not exist yet, for streaming into it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn create(&self, path: &Path, mode: u32) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let created = self.parent(path).and_then(|(dir, name)| {
            let fd = rustix::fs::openat(
                dir,
                name,
                flags | OFlags::CLOEXEC,
                Mode::from_raw_mode(mode),
            )?;
            // Whatever the umask says.
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
            Ok(fd)
        });
        Ok(created.map_err(failed(path, "made"))?.into())
    }

    /// Opens a file for locking, made when it is missing.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open_lock(&self, path: &Path) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = self.parent(path).and_then(|(dir, name)| {
            rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))
        });
        Ok(opened.map_err(failed(path, "opened"))?.into())
    }

    /// Writes a directory's entries to the disk.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn sync_dir(&self, path: &Path) -> Result<()> {
        self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)
            .and_then(rustix::fs::fsync)
            .map_err(failed(path, "synced"))
    }

    /// Room for unprivileged writers where a path is or would be, bytes, and
    /// whether the mount is read-only. statvfs(3).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn space(&self, path: &Path) -> Result<(u64, bool)> {
        for dir in path.ancestors() {
            let opened = present(self.resolve(dir, OFlags::RDONLY | OFlags::DIRECTORY));
            if let Some(dir) = opened.map_err(failed(dir, "looked at"))? {
                let stat = rustix::fs::fstatvfs(dir).map_err(failed(path, "looked at"))?;
                let read_only = stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
                return Ok((stat.f_bavail.saturating_mul(stat.f_frsize), read_only));
            }
        }
        Err(failed(path, "looked at")(Errno::NOENT))
    }
}

fn staged_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!(".{STAGED}{name}").into()
}

fn write_new(dir: impl AsFd, name: &Path, bytes: &[u8], meta: Meta) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file: File = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?.into();
    file.write_all(bytes)?;
    let own = rustix::fs::fstat(&file)?;
    if (own.st_uid, own.st_gid) != (meta.uid, meta.gid) {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        rustix::fs::fchown(&file, Some(uid), Some(gid))?;
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(meta.mode))?;
    file.sync_all()
}

fn names(dir: impl AsFd) -> rustix::io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            found.push(name);
        }
    }
    Ok(found)
}

fn remove_below(dir: &OwnedFd, name: &Path, depth: usize) -> rustix::io::Result<()> {
    match present(rustix::fs::unlinkat(dir, name, AtFlags::empty())) {
        Ok(_) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) if depth > 0 => (),
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let below = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    for entry in Dir::read_from(&below)? {
        let entry = entry?;
        let inner = entry.file_name().to_bytes();
        if inner != b"." && inner != b".." {
            use std::os::unix::ffi::OsStrExt;
            let inner = Path::new(std::ffi::OsStr::from_bytes(inner));
            remove_below(&below, inner, depth - 1)?;
        }
    }
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}

#[cfg(test)]
mod tests;

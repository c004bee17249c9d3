//! A directory made an image.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use bulkhead_erofs::{
    Attributes, Content, Device, Extent, FileData, Limits, NodeId, Timestamp, Writer, Xattrs,
};
use rustix::fs::{Dir, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use crate::Error;

/// How much a layer may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of its files, without holes.
    pub bytes: u64,
    /// Directories below each other.
    pub depth: usize,
    /// Files, directories and links.
    pub inodes: u64,
    /// Bytes of names, attributes and small files: they are in memory until the
    /// end.
    pub metadata: u64,
    /// Percent of the images' file system that stay free: a node throws out pods
    /// for want of room there.
    pub reserve: u8,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            depth: 256,
            inodes: 1_000_000,
            metadata: 256 << 20,
            reserve: 20,
        }
    }
}

/// Bytes of one file's extended attributes at most: the kernel's own limit.
const XATTR_LIMIT: usize = 64 << 10;

/// Runs of one sparse file at most; one with more is written with its holes.
const EXTENT_LIMIT: usize = 64 << 10;

/// What overlayfs says of a directory that hides what is below it.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// What overlayfs says of files whose content or name is in another layer.
const ELSEWHERE: [&[u8]; 2] = [b"trusted.overlay.redirect", b"trusted.overlay.metacopy"];

/// The rest is overlayfs's own accounts: true only where they were written.
const OVERLAY: &[u8] = b"trusted.overlay.";

/// Writes an image of all below `dir` into `file`.
///
/// # Errors
/// What cannot be read, is not a layer's, or is out of bounds.
pub(crate) fn pack(dir: &OwnedFd, file: File, bounds: Bounds) -> Result<File, Error> {
    let limits = Limits {
        inodes: bounds.inodes,
        metadata: bounds.metadata,
    };
    let mut packer = Packer {
        writer: Writer::new(file, limits)?,
        links: HashMap::new(),
        bounds,
        left: bounds.bytes,
    };
    let stat = rustix::fs::fstat(dir).map_err(|error| at(b"/", error))?;
    let root = packer.writer.root();
    let attributes = attributes(dir.as_fd(), &stat, b"/")?;
    packer.writer.set_attributes(root, attributes)?;
    packer.directory(dir.as_fd(), root, 0)?;
    Ok(packer.writer.finish()?.0)
}

struct Packer {
    writer: Writer,
    /// Files with several names, by device and number.
    links: HashMap<(u64, u64), NodeId>,
    bounds: Bounds,
    left: u64,
}

impl Packer {
    fn directory(&mut self, dir: BorrowedFd<'_>, node: NodeId, depth: usize) -> Result<(), Error> {
        if depth >= self.bounds.depth {
            return Err(Error::Depth(self.bounds.depth));
        }
        let list = Dir::read_from(dir).map_err(|error| at(b".", error))?;
        for entry in list {
            let entry = entry.map_err(|error| at(b".", error))?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                self.entry(dir, node, name, depth)?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        parent: NodeId,
        name: &[u8],
        depth: usize,
    ) -> Result<(), Error> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty());
        let fd = fd.map_err(|error| at(name, error))?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| at(name, error))?;
        let key = (stat.st_dev, stat.st_ino);
        if let Some(node) = self.links.get(&key) {
            return Ok(self.writer.link(parent, name, *node)?);
        }
        let attributes = attributes(fd.as_fd(), &stat, name)?;
        let content = self.content(&fd, &stat, name)?;
        let is_directory = content == Content::Directory;
        let node = self.writer.add(parent, name, attributes, content)?;
        if is_directory {
            let opened = reopen(&fd, OFlags::DIRECTORY).map_err(|error| at(name, error))?;
            return self.directory(opened.as_fd(), node, depth + 1);
        }
        if stat.st_nlink > 1 {
            self.links.insert(key, node);
        }
        Ok(())
    }

    fn content(&mut self, fd: &OwnedFd, stat: &Stat, name: &[u8]) -> Result<Content, Error> {
        let device = || Device {
            major: rustix::fs::major(stat.st_rdev),
            minor: rustix::fs::minor(stat.st_rdev),
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Content::Directory,
            FileType::RegularFile => Content::File(self.file(fd, stat, name)?),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(fd, "", Vec::new());
                let target = target.map_err(|error| at(name, error))?;
                Content::Symlink(target.into_bytes().into())
            }
            FileType::CharacterDevice => Content::CharDevice(device()),
            FileType::BlockDevice => Content::BlockDevice(device()),
            FileType::Fifo => Content::Fifo,
            FileType::Socket => Content::Socket,
            FileType::Unknown => return Err(at(name, Errno::INVAL)),
        })
    }

    fn file(&mut self, fd: &OwnedFd, stat: &Stat, name: &[u8]) -> Result<FileData, Error> {
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        if size == 0 {
            return Ok(FileData::EMPTY);
        }
        let opened = reopen(fd, OFlags::empty()).map_err(|error| at(name, error))?;
        let blocks = u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
        let extents = match blocks < size {
            true => extents(&opened, size).map_err(|error| at(name, error))?,
            false => None,
        };
        let held = match &extents {
            Some(runs) => runs.iter().map(|run| run.len).sum(),
            None => size,
        };
        let left = self.left.checked_sub(held);
        self.left = left.ok_or(Error::Bytes(self.bounds.bytes))?;
        let file = File::from(opened);
        let written = match extents {
            Some(runs) => {
                let mut source = Runs::new(&file, &runs);
                self.writer.write_sparse(&mut source, size, &runs)
            }
            None => self.writer.write_file(&mut &file, size),
        };
        written.map_err(|error| match error {
            bulkhead_erofs::Error::Truncated { .. } => Error::Changed(shown(name)),
            other => other.into(),
        })
    }
}

/// The runs of data in a file; none when there are too many of them, or its file
/// system cannot say.
fn extents(file: &OwnedFd, size: u64) -> rustix::io::Result<Option<Vec<Extent>>> {
    let mut runs = Vec::new();
    let mut from = 0;
    while from < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(size);
        if end <= start || runs.len() == EXTENT_LIMIT {
            rustix::fs::seek(file, SeekFrom::Start(0))?;
            return Ok(None);
        }
        runs.push(Extent {
            offset: start,
            len: end - start,
        });
        from = end;
    }
    Ok(Some(runs))
}

/// The bytes of a file's runs, one behind the other.
struct Runs<'a> {
    file: &'a File,
    rest: &'a [Extent],
    /// How much of the first is read.
    done: u64,
}

impl<'a> Runs<'a> {
    fn new(file: &'a File, rest: &'a [Extent]) -> Self {
        Self {
            file,
            rest,
            done: 0,
        }
    }
}

impl Read for Runs<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let Some((run, rest)) = self.rest.split_first() else {
            return Ok(0);
        };
        if self.done == run.len {
            (self.rest, self.done) = (rest, 0);
            return self.read(buffer);
        }
        let left = usize::try_from(run.len - self.done).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        let count = self
            .file
            .read_at(&mut buffer[..most], run.offset + self.done)?;
        self.done += count as u64;
        Ok(count)
    }
}

fn attributes(fd: BorrowedFd<'_>, stat: &Stat, name: &[u8]) -> Result<Attributes, Error> {
    Ok(Attributes {
        // The low twelve bits.
        mode: (stat.st_mode & 0o7777) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Timestamp {
            seconds: stat.st_mtime,
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        },
        xattrs: xattrs(fd, name)?,
    })
}

/// By the descriptor's name in /proc: one opened with `O_PATH`, as a link or a
/// device has to be, has no other way to its attributes.
fn xattrs(fd: BorrowedFd<'_>, name: &[u8]) -> Result<Xattrs, Error> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut list = vec![0; XATTR_LIMIT];
    let count = match rustix::fs::listxattr(&path, &mut list) {
        Ok(count) => count,
        Err(Errno::OPNOTSUPP) => return Ok(Xattrs::new()),
        Err(error) => return Err(at(name, error)),
    };
    let mut found = Xattrs::new();
    let mut value = Vec::new();
    for attribute in list[..count].split(|byte| *byte == 0) {
        if attribute.is_empty() || (attribute.starts_with(OVERLAY) && attribute != OPAQUE) {
            if ELSEWHERE.contains(&attribute) {
                return Err(Error::Overlay {
                    name: shown(name),
                    attribute: shown(attribute),
                });
            }
            continue;
        }
        value.resize(XATTR_LIMIT, 0);
        let length = match rustix::fs::getxattr(&path, attribute, &mut value) {
            Ok(length) => length,
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(at(name, error)),
        };
        found.insert(attribute.into(), value[..length].into());
    }
    Ok(found)
}

/// The same file, opened for reading: what a path leads to may have changed.
fn reopen(fd: &OwnedFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(path, flags, Mode::empty())
}

fn at(name: &[u8], error: Errno) -> Error {
    Error::Read {
        name: shown(name),
        source: error.into(),
    }
}

fn shown(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}

#[cfg(test)]
mod tests;

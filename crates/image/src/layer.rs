//! A layer's tar, made an EROFS image: the rules of the OCI image layer specification, applied to
//! a tree in memory instead of the host's filesystem.

mod sparse;

use std::fs::File;
use std::io::{self, BufReader, Read};

use bulkhead_erofs::{
    Attributes, Content, Device, FileData, Limits, NodeId, Timestamp, Writer, Xattrs,
};
use tar::{Entry, EntryType};

use sparse::Sparse;

use crate::verify::Hashing;
use crate::{Error, Result};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Symbolic links followed on the way to an entry's parent at most, as the kernel.
const LINKS_MAX: usize = 40;

/// Directories above an entry at most.
const DEPTH_MAX: usize = 512;

/// How large a layer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerLimits {
    /// Bytes of its unpacked tar.
    pub unpacked: u64,
    /// Files in it.
    pub entries: u64,
}

impl Default for LayerLimits {
    fn default() -> Self {
        Self {
            unpacked: 64 << 30,
            entries: 4_000_000,
        }
    }
}

/// Converts a layer blob (gzip, zstd or plain tar) into `file`, and checks its diffID.
pub(crate) fn convert(
    blob: &mut dyn Read,
    diff_id: &str,
    limits: LayerLimits,
    file: File,
) -> Result<File> {
    let broken = |source| Error::Layer {
        layer: diff_id.to_owned(),
        source,
    };
    let tar = unpacked(blob).map_err(broken)?;
    let bounded = Bounded {
        inner: Hashing::new(tar),
        left: limits.unpacked,
    };
    let mut builder = Builder::new(diff_id, limits, file)?;
    let mut archive = tar::Archive::new(bounded);
    for entry in archive.entries().map_err(broken)? {
        builder.entry(&mut entry.map_err(broken)?)?;
    }
    let (actual, _) = archive.into_inner().inner.finish().map_err(broken)?;
    if actual != diff_id {
        return Err(Error::Blob {
            digest: diff_id.to_owned(),
            problem: format!("unpacked it is `{actual}`"),
        });
    }
    builder.finish()
}

/// Tells the packing by its first bytes: media types are often wrong.
fn unpacked<'a>(blob: &'a mut dyn Read) -> io::Result<Box<dyn Read + 'a>> {
    let mut head = [0; 4];
    let mut got = 0;
    while got < head.len() {
        match blob.read(&mut head[got..])? {
            0 => break,
            count => got += count,
        }
    }
    let whole = io::Cursor::new(head).take(got as u64).chain(blob);
    Ok(match head {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(whole))),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(whole)?),
        _ => Box::new(whole),
    })
}

/// Ends with an error instead of more bytes than allowed: a small blob may unpack to anything.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::FileTooLarge,
                "it unpacks to more than is allowed",
            )
        })?;
        Ok(count)
    }
}

struct Builder<'a> {
    writer: Writer,
    layer: &'a str,
    opaque: Vec<NodeId>,
}

impl<'a> Builder<'a> {
    fn new(layer: &'a str, limits: LayerLimits, file: File) -> Result<Self> {
        let limits = Limits {
            inodes: limits.entries,
            ..Limits::default()
        };
        let writer = Writer::new(file, limits).map_err(|source| Error::Convert {
            layer: layer.to_owned(),
            source,
        })?;
        Ok(Self {
            writer,
            layer,
            opaque: Vec::new(),
        })
    }

    fn convert(&self, source: bulkhead_erofs::Error) -> Error {
        Error::Convert {
            layer: self.layer.to_owned(),
            source,
        }
    }

    fn refuse(&self, path: &[u8], problem: impl Into<String>) -> Error {
        let text = String::from_utf8_lossy(path);
        let entry = text.chars().filter(|c| !c.is_control()).take(300);
        Error::Entry {
            layer: self.layer.to_owned(),
            entry: entry.collect(),
            problem: problem.into(),
        }
    }

    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<()> {
        let header = entry.path_bytes().into_owned();
        let mut sparse = sparse::read(entry).map_err(|e| self.refuse(&header, e.to_string()))?;
        let name = sparse.as_mut().and_then(|own| own.name.take());
        let path = name.unwrap_or(header);
        let parts = components(&path)
            .ok_or_else(|| self.refuse(&path, "its path leaves the root or is too deep"))?;
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let Some((name, parents)) = parts.split_last() else {
            // The root itself: only its attributes matter.
            let attributes = self.attributes(entry, &path)?;
            let root = self.writer.root();
            return self
                .writer
                .set_attributes(root, attributes)
                .map_err(|e| self.convert(e));
        };
        let parent = self.parent(parents, &path)?;
        if *name == OPAQUE {
            self.opaque.push(parent);
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            let attributes = Attributes {
                mode: 0,
                ..Attributes::default()
            };
            let content = Content::CharDevice(Device::WHITEOUT);
            let added = self.writer.add(parent, hidden, attributes, content);
            return added.map(|_| ()).map_err(|e| self.convert(e));
        }
        self.add(parent, name, kind, entry, sparse, &path)
    }

    fn add<R: Read>(
        &mut self,
        parent: NodeId,
        name: &[u8],
        kind: EntryType,
        entry: &mut Entry<'_, R>,
        sparse: Option<Sparse>,
        path: &[u8],
    ) -> Result<()> {
        if kind == EntryType::Link {
            return self.hard_link(parent, name, entry, path);
        }
        let attributes = self.attributes(entry, path)?;
        let existing = self.writer.lookup(parent, name);
        if kind == EntryType::Directory
            && let Some(node) = existing.filter(|node| self.writer.is_directory(*node))
        {
            return self
                .writer
                .set_attributes(node, attributes)
                .map_err(|e| self.convert(e));
        }
        let content = match kind {
            EntryType::Directory => Content::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                Content::File(self.file(entry, sparse, path)?)
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                Content::Symlink(target.into())
            }
            EntryType::Char => Content::CharDevice(device(entry)),
            EntryType::Block => Content::BlockDevice(device(entry)),
            EntryType::Fifo => Content::Fifo,
            other => {
                return Err(self.refuse(path, format!("it is of the unknown type {other:?}")));
            }
        };
        self.writer
            .add(parent, name, attributes, content)
            .map_err(|e| self.convert(e))?;
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        sparse: Option<Sparse>,
        path: &[u8],
    ) -> Result<FileData> {
        let data = match sparse {
            Some(sparse) => {
                let wrong = |error: io::Error| self.refuse(path, error.to_string());
                let (size, extents) = sparse.map(entry).map_err(wrong)?;
                self.writer.write_sparse(entry, size, &extents)
            }
            None => {
                let size = entry.size();
                self.writer.write_file(entry, size)
            }
        };
        data.map_err(|e| self.convert(e))
    }

    fn hard_link<R: Read>(
        &mut self,
        parent: NodeId,
        name: &[u8],
        entry: &Entry<'_, R>,
        path: &[u8],
    ) -> Result<()> {
        let target = entry.link_name_bytes().unwrap_or_default().into_owned();
        let parts =
            components(&target).ok_or_else(|| self.refuse(path, "its link leaves the root"))?;
        let found = parts.split_last().and_then(|(last, parents)| {
            let dir = self.resolve(parents, false).ok()??;
            self.writer.lookup(dir, last)
        });
        let Some(node) = found else {
            return Err(self.refuse(path, "it is a hard link to a file that is not in its layer"));
        };
        if self.writer.lookup(parent, name) == Some(node) {
            return Ok(());
        }
        self.writer
            .link(parent, name, node)
            .map_err(|e| self.convert(e))
    }

    /// The directory an entry goes into; made where the tar leaves it out.
    fn parent(&mut self, parts: &[&[u8]], path: &[u8]) -> Result<NodeId> {
        match self.resolve(parts, true) {
            Ok(Some(node)) => Ok(node),
            Ok(None) => Err(self.refuse(path, "its directory is a file or a loop of links")),
            Err(error) => Err(self.convert(error)),
        }
    }

    /// Walks into directories, through symbolic links, never out of the root.
    fn resolve(
        &mut self,
        parts: &[&[u8]],
        make: bool,
    ) -> std::result::Result<Option<NodeId>, bulkhead_erofs::Error> {
        let mut todo: Vec<Vec<u8>> = parts.iter().rev().map(|part| part.to_vec()).collect();
        let mut stack = vec![self.writer.root()];
        let mut links = 0;
        while let Some(part) = todo.pop() {
            let here = stack.last().copied().unwrap_or(self.writer.root());
            if part == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            match self.writer.lookup(here, &part) {
                Some(node) if self.writer.is_directory(node) => stack.push(node),
                Some(node) => {
                    let Some(target) = self.writer.symlink_target(node) else {
                        return Ok(None);
                    };
                    links += 1;
                    if links > LINKS_MAX {
                        return Ok(None);
                    }
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    let further = target
                        .split(|b| *b == b'/')
                        .filter(|p| !matches!(*p, b"" | b"."));
                    let further: Vec<Vec<u8>> = further.map(<[u8]>::to_vec).collect();
                    todo.extend(further.into_iter().rev());
                }
                None if make => {
                    let attributes = Attributes {
                        mode: 0o755,
                        ..Attributes::default()
                    };
                    stack.push(
                        self.writer
                            .add(here, &part, attributes, Content::Directory)?,
                    );
                }
                None => return Ok(None),
            }
        }
        Ok(stack.last().copied())
    }

    fn attributes<R: Read>(&self, entry: &mut Entry<'_, R>, path: &[u8]) -> Result<Attributes> {
        let broken = |source| Error::Layer {
            layer: self.layer.to_owned(),
            source,
        };
        let header = entry.header();
        let id = |id: io::Result<u64>| id.map_err(broken).map(|id| u32::try_from(id).unwrap_or(0));
        let (mut uid, mut gid) = (id(header.uid())?, id(header.gid())?);
        let mode = (header.mode().map_err(broken)? & 0o7777) as u16;
        let mut mtime = Timestamp {
            seconds: header.mtime().map_err(broken)?.cast_signed(),
            nanoseconds: 0,
        };
        let mut xattrs = Xattrs::new();
        for extension in entry
            .pax_extensions()
            .map_err(broken)?
            .into_iter()
            .flatten()
        {
            let extension = extension.map_err(broken)?;
            let (key, value) = (extension.key_bytes(), extension.value_bytes());
            let text = || std::str::from_utf8(value).unwrap_or_default();
            match key {
                b"uid" => uid = text().parse().map_err(|_| self.refuse(path, "a bad uid"))?,
                b"gid" => gid = text().parse().map_err(|_| self.refuse(path, "a bad gid"))?,
                b"mtime" => mtime = timestamp(text()).unwrap_or(mtime),
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        xattrs.insert(name.into(), value.into());
                    }
                }
            }
        }
        // Overlay's own attributes would let an image speak for the runtime.
        xattrs.retain(|name, _| !name.starts_with(b"trusted.overlay."));
        Ok(Attributes {
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        })
    }

    fn finish(mut self) -> Result<File> {
        for node in std::mem::take(&mut self.opaque) {
            let mut attributes = self.writer.attributes(node).clone();
            attributes
                .xattrs
                .insert(b"trusted.overlay.opaque"[..].into(), b"y"[..].into());
            self.writer
                .set_attributes(node, attributes)
                .map_err(|e| self.convert(e))?;
        }
        let layer = self.layer;
        let finished = self.writer.finish();
        finished
            .map(|(file, _)| file)
            .map_err(|source| Error::Convert {
                layer: layer.to_owned(),
                source,
            })
    }
}

/// The parts of a path: no root, no dots; `None` when it leaves the root.
fn components(path: &[u8]) -> Option<Vec<&[u8]>> {
    let parts: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .filter(|part| !matches!(*part, b"" | b"."))
        .collect();
    let leaves = parts.iter().any(|part| *part == b"..");
    (!leaves && parts.len() <= DEPTH_MAX).then_some(parts)
}

fn device<R: Read>(entry: &Entry<'_, R>) -> Device {
    let number = |value: io::Result<Option<u32>>| value.ok().flatten().unwrap_or(0);
    Device {
        major: number(entry.header().device_major()),
        minor: number(entry.header().device_minor()),
    }
}

/// "1700000000.25" of a PAX header.
fn timestamp(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    Some(Timestamp {
        seconds: seconds.parse().ok()?,
        nanoseconds: digits.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_stay_below_the_root() {
        assert_eq!(components(b"./a//b/"), Some(vec![&b"a"[..], b"b"]));
        assert_eq!(
            components(b"/etc/passwd"),
            Some(vec![&b"etc"[..], b"passwd"])
        );
        assert_eq!(components(b"a/../../etc"), None);
    }

    #[test]
    fn times_keep_their_nanoseconds() {
        let time = timestamp("17.25").unwrap();
        assert_eq!((time.seconds, time.nanoseconds), (17, 250_000_000));
        assert!(timestamp("x").is_none());
    }

    #[test]
    fn a_bomb_ends_at_its_limit() {
        let zeros = io::repeat(0).take(100 << 20);
        let mut packed = Vec::new();
        flate2::read::GzEncoder::new(zeros, flate2::Compression::fast())
            .read_to_end(&mut packed)
            .unwrap();
        let limits = LayerLimits {
            unpacked: 1 << 20,
            entries: 10,
        };
        let file = tempfile::tempfile().unwrap();
        let digest = format!("sha256:{}", "0".repeat(64));
        assert!(convert(&mut &packed[..], &digest, limits, file).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_conversion(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let file = tempfile::tempfile().unwrap();
            let digest = format!("sha256:{}", "0".repeat(64));
            let limits = LayerLimits { unpacked: 1 << 20, entries: 100 };
            prop_assert!(convert(&mut &bytes[..], &digest, limits, file).is_err());
        }
    }
}

//! The data area: the bytes of files, appended as they are read.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};

use crate::format::{BLOCK_BITS, BLOCK_SIZE, NULL_BLOCK};
use crate::{Error, Result};

/// Largest file: what ext4 can hold, so that no image needs more than other runtimes give it.
const FILE_MAX: u64 = 16 << 40;
/// A sparse file's chunks are sized so that its map stays below this many entries.
const CHUNKS_MAX: u64 = 1 << 16;
/// Files up to this size live beside their inode: no block of their own, one read less.
pub(crate) const INLINE_MAX: u64 = 2048;
/// Gaps shorter than this are written as zeros; longer ones become holes of the image file.
const GAP_MAX: u64 = 64 << 10;
const COPY_LEN: usize = 128 << 10;

/// Where the bytes of a regular file are, as the writer put them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileData(pub(crate) Placement);

impl FileData {
    /// A file of no bytes.
    pub const EMPTY: FileData = FileData(Placement::Empty);

    /// Size in bytes, holes included.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.0 {
            Placement::Empty => 0,
            Placement::Inline(bytes) => bytes.len() as u64,
            Placement::Blocks { size, .. } | Placement::Chunks { size, .. } => *size,
        }
    }

    /// Bytes of metadata kept in memory for this file.
    pub(crate) fn metadata(&self) -> u64 {
        match &self.0 {
            Placement::Inline(bytes) => bytes.len() as u64,
            Placement::Chunks { map, .. } => map.len() as u64 * 4,
            Placement::Empty | Placement::Blocks { .. } => 0,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    Empty,
    Inline(Box<[u8]>),
    Blocks {
        block: u32,
        size: u64,
    },
    Chunks {
        size: u64,
        bits: u8,
        map: Box<[u32]>,
    },
}

/// A run of real bytes in a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where the run starts in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
}

/// An append-only view of the image file.
#[derive(Debug)]
pub(crate) struct DataWriter {
    out: BufWriter<File>,
    position: u64,
    buffer: Box<[u8]>,
}

impl DataWriter {
    pub(crate) fn new(file: File) -> Result<Self> {
        let mut out = BufWriter::with_capacity(COPY_LEN, file);
        out.seek(SeekFrom::Start(BLOCK_SIZE))
            .map_err(Error::Write)?;
        Ok(DataWriter {
            out,
            position: BLOCK_SIZE,
            buffer: vec![0; COPY_LEN].into(),
        })
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(Error::Write)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Moves on to `position`, leaving zeros (or a hole that reads as zeros) behind.
    pub(crate) fn advance_to(&mut self, position: u64) -> Result<()> {
        let gap = position - self.position;
        if gap < GAP_MAX {
            const ZEROS: [u8; 4096] = [0; 4096];
            let mut left = gap as usize;
            while left > 0 {
                let len = left.min(ZEROS.len());
                self.append(&ZEROS[..len])?;
                left -= len;
            }
        } else {
            self.out
                .seek(SeekFrom::Start(position))
                .map_err(Error::Write)?;
            self.position = position;
        }
        Ok(())
    }

    /// Starts a block and gives its number.
    pub(crate) fn next_block(&mut self) -> Result<u32> {
        let position = self.position.next_multiple_of(BLOCK_SIZE);
        self.advance_to(position)?;
        let block = position >> BLOCK_BITS;
        u32::try_from(block)
            .ok()
            .filter(|b| *b != NULL_BLOCK)
            .ok_or(Error::ImageSize)
    }

    /// Copies exactly `len` bytes of `source`.
    fn copy(&mut self, source: &mut dyn Read, len: u64) -> Result<()> {
        let mut left = len;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(COPY_LEN).min(COPY_LEN);
            let mut buffer = std::mem::take(&mut self.buffer);
            let read = source.read(&mut buffer[..want]);
            let result = match read {
                Ok(0) => Err(Error::Truncated {
                    want: len,
                    got: len - left,
                }),
                Ok(got) => self.append(&buffer[..got]).map(|()| left -= got as u64),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => Ok(()),
                Err(e) => Err(Error::Source(e)),
            };
            self.buffer = buffer;
            result?;
        }
        Ok(())
    }

    /// Writes a file without holes.
    pub(crate) fn file(
        &mut self,
        source: &mut dyn Read,
        size: u64,
        inline: bool,
    ) -> Result<FileData> {
        if size > FILE_MAX {
            return Err(Error::FileSize(size));
        }
        if size == 0 {
            return Ok(FileData::EMPTY);
        }
        if inline && size <= INLINE_MAX {
            let mut bytes = Vec::with_capacity(size as usize);
            let got = source
                .take(size)
                .read_to_end(&mut bytes)
                .map_err(Error::Source)? as u64;
            return if got == size {
                Ok(FileData(Placement::Inline(bytes.into())))
            } else {
                Err(Error::Truncated { want: size, got })
            };
        }
        let block = self.next_block()?;
        self.copy(source, size)?;
        Ok(FileData(Placement::Blocks { block, size }))
    }

    /// Writes the runs of a sparse file: a chunk with any byte in it gets room
    /// in the image (itself sparse there), a chunk without takes nothing.
    pub(crate) fn sparse(
        &mut self,
        source: &mut dyn Read,
        size: u64,
        extents: &[Extent],
    ) -> Result<FileData> {
        if size > FILE_MAX {
            return Err(Error::FileSize(size));
        }
        check_map(size, extents)?;
        if size == 0 {
            return Ok(FileData::EMPTY);
        }
        let bits = chunk_bits(size);
        let chunk = BLOCK_SIZE << bits;
        let mut map = vec![NULL_BLOCK; size.div_ceil(chunk) as usize];
        let mut start = 0;
        for extent in extents {
            let (mut offset, end) = (extent.offset, extent.offset + extent.len);
            while offset < end {
                let index = (offset / chunk) as usize;
                if map[index] == NULL_BLOCK {
                    self.finish_chunk(start)?;
                    map[index] = self.next_block()?;
                    start = self.position + chunk.min(size - index as u64 * chunk);
                }
                let position = (u64::from(map[index]) << BLOCK_BITS) + offset % chunk;
                self.advance_to(position)?;
                let len = (end - offset).min(chunk - offset % chunk);
                self.copy(source, len)?;
                offset += len;
            }
        }
        self.finish_chunk(start)?;
        Ok(FileData(Placement::Chunks {
            size,
            bits,
            map: map.into(),
        }))
    }

    /// A chunk owns its blocks to the end, written or not.
    fn finish_chunk(&mut self, end: u64) -> Result<()> {
        if end > self.position {
            self.advance_to(end)
        } else {
            Ok(())
        }
    }

    /// Ends the image at a block boundary with `first` as block 0, and gives its size.
    pub(crate) fn finish(mut self, first: &[u8]) -> Result<(File, u64)> {
        self.next_block()?;
        let size = self.position;
        self.out.seek(SeekFrom::Start(0)).map_err(Error::Write)?;
        self.out.write_all(first).map_err(Error::Write)?;
        let file = self
            .out
            .into_inner()
            .map_err(|e| Error::Write(e.into_error()))?;
        file.set_len(size).map_err(Error::Write)?;
        Ok((file, size))
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }
}

fn check_map(size: u64, extents: &[Extent]) -> Result<()> {
    let mut end = 0;
    for extent in extents {
        let next = extent.offset.checked_add(extent.len).filter(|n| *n <= size);
        if extent.offset < end || next.is_none() {
            return Err(Error::SparseMap);
        }
        end = next.unwrap_or(end);
    }
    Ok(())
}

/// The smallest chunk, as a power of two of blocks, that keeps the map short.
fn chunk_bits(size: u64) -> u8 {
    let blocks_per_chunk = size.div_ceil(BLOCK_SIZE).div_ceil(CHUNKS_MAX);
    blocks_per_chunk.next_power_of_two().trailing_zeros() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_grow_with_the_file_so_that_the_map_stays_short() {
        assert_eq!(chunk_bits(1), 0);
        assert_eq!(chunk_bits(256 << 20), 0);
        assert_eq!(chunk_bits((256 << 20) + 1), 1);
        assert_eq!(chunk_bits(FILE_MAX), 16);
        assert!(FILE_MAX.div_ceil(BLOCK_SIZE << chunk_bits(FILE_MAX)) <= CHUNKS_MAX);
    }

    #[test]
    fn a_map_that_overlaps_or_overflows_is_refused() {
        let e = |offset, len| Extent { offset, len };
        assert!(check_map(10, &[e(0, 4), e(4, 6)]).is_ok());
        assert!(check_map(10, &[e(0, 5), e(4, 6)]).is_err());
        assert!(check_map(10, &[e(4, 7)]).is_err());
        assert!(check_map(10, &[e(u64::MAX, 7)]).is_err());
    }
}

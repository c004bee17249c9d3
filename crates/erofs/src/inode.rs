//! Where each inode goes and what it looks like: `struct erofs_inode_extended`.

use crate::data::Placement;
use crate::format::{
    BLOCK_SIZE, CHUNK_BASED, FLAT_INLINE, FLAT_PLAIN, INODE_LEN, NULL_BLOCK, S_IFBLK, S_IFCHR,
    S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK, SLOT, encode_device, put,
};
use crate::tree::Node;
use crate::{Content, FileData, Result, xattr};

/// What follows an inode in the metadata area, and what its fields point to.
#[derive(Debug)]
pub(crate) enum Body {
    /// Nothing; the number is a device's, or 0.
    None(u32),
    /// All its bytes, behind it.
    Inline(Vec<u8>),
    /// Bytes in blocks elsewhere.
    Blocks { block: u32, size: u64 },
    /// A map of blocks behind it.
    Chunks {
        size: u64,
        bits: u8,
        map: Box<[u32]>,
    },
}

impl Body {
    pub(crate) fn of_file(data: &FileData) -> Self {
        match &data.0 {
            Placement::Empty => Self::None(0),
            Placement::Inline(bytes) => Self::Inline(bytes.to_vec()),
            Placement::Blocks { block, size } => Self::Blocks {
                block: *block,
                size: *size,
            },
            Placement::Chunks { size, bits, map } => Self::Chunks {
                size: *size,
                bits: *bits,
                map: map.clone(),
            },
        }
    }

    fn tail_len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Chunks { map, .. } => map.len() as u64 * 4,
            Self::None(_) | Self::Blocks { .. } => 0,
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::None(_) => 0,
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Blocks { size, .. } | Self::Chunks { size, .. } => *size,
        }
    }
}

/// The first place at or behind `position` (bytes into the metadata area) where an inode with
/// this body may stand, and where it ends. Inline bytes must not cross a block.
pub(crate) fn place(position: u64, node: &Node, body: &Body) -> Result<(u64, u64)> {
    let head = INODE_LEN as u64 + xattr::body_len(&node.attributes.xattrs)? as u64;
    let tail = body.tail_len();
    let inline = matches!(body, Body::Inline(_));
    let mut at = position.next_multiple_of(SLOT);
    while inline && (at + head) % BLOCK_SIZE + tail > BLOCK_SIZE {
        at += SLOT;
    }
    Ok((at, at + head + tail))
}

/// Type bits of a mode.
pub(crate) fn type_bits(content: &Content) -> u16 {
    match content {
        Content::Directory => S_IFDIR,
        Content::File(_) => S_IFREG,
        Content::Symlink(_) => S_IFLNK,
        Content::CharDevice(_) => S_IFCHR,
        Content::BlockDevice(_) => S_IFBLK,
        Content::Fifo => S_IFIFO,
        Content::Socket => S_IFSOCK,
    }
}

/// The number a device inode holds.
pub(crate) fn device_number(content: &Content) -> u32 {
    match content {
        Content::CharDevice(device) | Content::BlockDevice(device) => encode_device(*device),
        _ => 0,
    }
}

/// Encodes an inode with its attributes and what follows it.
pub(crate) fn encode(node: &Node, body: &Body, number: u32, links: u32) -> Result<Vec<u8>> {
    let attributes = &node.attributes;
    let (layout, union) = match body {
        Body::None(device) => (FLAT_PLAIN, *device),
        Body::Inline(_) => (FLAT_INLINE, NULL_BLOCK),
        Body::Blocks { block, .. } => (FLAT_PLAIN, *block),
        Body::Chunks { bits, .. } => (CHUNK_BASED, u32::from(*bits)),
    };
    let mut out = vec![0; INODE_LEN];
    put(&mut out, 0, &(1 | layout << 1).to_le_bytes());
    let icount = xattr::icount(xattr::body_len(&attributes.xattrs)?);
    put(&mut out, 2, &icount.to_le_bytes());
    let mode = type_bits(&node.content) | attributes.mode & 0o7777;
    put(&mut out, 4, &mode.to_le_bytes());
    put(&mut out, 8, &body.size().to_le_bytes());
    put(&mut out, 16, &union.to_le_bytes());
    put(&mut out, 20, &number.to_le_bytes());
    put(&mut out, 24, &attributes.uid.to_le_bytes());
    put(&mut out, 28, &attributes.gid.to_le_bytes());
    put(&mut out, 32, &attributes.mtime.seconds.to_le_bytes());
    put(&mut out, 40, &attributes.mtime.nanoseconds.to_le_bytes());
    put(&mut out, 44, &links.to_le_bytes());
    xattr::encode(&attributes.xattrs, &mut out)?;
    match body {
        Body::Inline(bytes) => out.extend_from_slice(bytes),
        Body::Chunks { map, .. } => out.extend(map.iter().flat_map(|block| block.to_le_bytes())),
        Body::None(_) | Body::Blocks { .. } => {}
    }
    Ok(out)
}

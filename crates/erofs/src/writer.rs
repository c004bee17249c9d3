//! The writer: data as it comes, then directories, then inodes, then the superblock.

use std::fs::File;
use std::io::Read;

use crate::data::{DataWriter, INLINE_MAX};
use crate::directory::{self, Named};
use crate::format::{BLOCK_BITS, INCOMPAT_CHUNKED_FILE, SLOT, Superblock, file_type};
use crate::inode::{self, Body};
use crate::tree::Tree;
use crate::{Attributes, Content, Error, Extent, FileData, NodeId, Result};

/// How much of an image may be kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Files, directories and links at most.
    pub inodes: u64,
    /// Bytes of names, attributes and small files at most.
    pub metadata: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            inodes: 4_000_000,
            metadata: 4 << 30,
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Size of the image in bytes; a multiple of the block size.
    pub size: u64,
    /// Inodes in it.
    pub inodes: u64,
}

/// Writes one image.
#[derive(Debug)]
pub struct Writer {
    data: DataWriter,
    tree: Tree,
}

impl Writer {
    /// Starts an image in an empty file.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn new(file: File, limits: Limits) -> Result<Self> {
        Ok(Writer {
            data: DataWriter::new(file)?,
            tree: Tree::new(limits),
        })
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> NodeId {
        NodeId(0)
    }

    /// Copies a file's `size` bytes into the image.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Source`], [`Error::Truncated`], [`Error::FileSize`].
    pub fn write_file(&mut self, source: &mut dyn Read, size: u64) -> Result<FileData> {
        self.data.file(source, size, true)
    }

    /// Copies the runs of a sparse file, of `size` bytes with its holes. The source gives the
    /// runs' bytes one behind the other.
    ///
    /// # Errors
    /// As [`Writer::write_file`], and [`Error::SparseMap`].
    pub fn write_sparse(
        &mut self,
        source: &mut dyn Read,
        size: u64,
        extents: &[Extent],
    ) -> Result<FileData> {
        self.data.sparse(source, size, extents)
    }

    /// What a directory has under a name.
    #[must_use]
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.tree.lookup(parent, name)
    }

    /// Is it a directory?
    #[must_use]
    pub fn is_directory(&self, node: NodeId) -> bool {
        self.tree.node(node).content == Content::Directory
    }

    /// Where a symbolic link points; `None` for anything else.
    #[must_use]
    pub fn symlink_target(&self, node: NodeId) -> Option<Box<[u8]>> {
        match &self.tree.node(node).content {
            Content::Symlink(target) => Some(target.clone()),
            _ => None,
        }
    }

    /// Adds a file; what had the name before loses it.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::NotDirectory`], and those about values out of range.
    pub fn add(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
        content: Content,
    ) -> Result<NodeId> {
        self.tree.add(parent, name, attributes, content)
    }

    /// Gives a file a further name: a hard link.
    ///
    /// # Errors
    /// [`Error::LinkDirectory`], [`Error::Name`], [`Error::NotDirectory`].
    pub fn link(&mut self, parent: NodeId, name: &[u8], node: NodeId) -> Result<()> {
        self.tree.name(parent, name, node)
    }

    /// Takes a name away, and with it what only had that name.
    pub fn remove(&mut self, parent: NodeId, name: &[u8]) {
        self.tree.remove(parent, name);
    }

    /// A file's attributes.
    #[must_use]
    pub fn attributes(&self, node: NodeId) -> &Attributes {
        &self.tree.node(node).attributes
    }

    /// Replaces a file's attributes.
    ///
    /// # Errors
    /// [`Error::XattrName`], [`Error::XattrSize`].
    pub fn set_attributes(&mut self, node: NodeId, attributes: Attributes) -> Result<()> {
        self.tree.set_attributes(node, attributes)
    }

    /// Writes the metadata and ends the image; gives the file back.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::ImageSize`].
    pub fn finish(mut self) -> Result<(File, Summary)> {
        let order = self.tree.walk();
        let mut bodies = self.bodies(&order)?;
        let first_block = self.data.position().div_ceil(1 << BLOCK_BITS);
        let directory_blocks = allocate(&mut bodies, first_block)?;
        let meta_block =
            u32::try_from(first_block + directory_blocks).map_err(|_| Error::ImageSize)?;
        let nids = self.place(&order, &bodies)?;
        self.write_directories(&order, &mut bodies, &nids)?;
        self.write_inodes(&order, &bodies, &nids, meta_block)?;
        let chunked = bodies
            .iter()
            .any(|body| matches!(body, Body::Chunks { .. }));
        let blocks = self.data.position().div_ceil(1 << BLOCK_BITS);
        let superblock = Superblock {
            root_nid: 0,
            inodes: order.len() as u64,
            blocks: u32::try_from(blocks).map_err(|_| Error::ImageSize)?,
            meta_block,
            incompat: if chunked { INCOMPAT_CHUNKED_FILE } else { 0 },
        };
        let (file, size) = self.data.finish(&superblock.block())?;
        Ok((
            file,
            Summary {
                size,
                inodes: order.len() as u64,
            },
        ))
    }

    fn bodies(&mut self, order: &[NodeId]) -> Result<Vec<Body>> {
        let mut bodies = Vec::with_capacity(order.len());
        for id in order {
            let content = self.tree.node(*id).content.clone();
            bodies.push(match &content {
                Content::Directory => {
                    let size = directory::size(self.sorted(*id).iter().map(|(name, _)| &**name));
                    if size <= INLINE_MAX {
                        Body::Inline(vec![0; size as usize])
                    } else {
                        Body::Blocks { block: 0, size }
                    }
                }
                Content::File(data) => Body::of_file(data),
                Content::Symlink(target) => {
                    let mut bytes = &target[..];
                    Body::of_file(&self.data.file(&mut bytes, target.len() as u64, true)?)
                }
                other => Body::None(inode::device_number(other)),
            });
        }
        Ok(bodies)
    }

    /// A directory's entries with `.` and `..`, as the kernel wants them sorted.
    fn sorted(&self, id: NodeId) -> Vec<(Box<[u8]>, NodeId)> {
        let node = self.tree.node(id);
        let mut entries: Vec<_> = node.children.iter().map(|(n, c)| (n.clone(), *c)).collect();
        entries.push((Box::from(&b"."[..]), id));
        entries.push((Box::from(&b".."[..]), node.parent));
        entries.sort();
        entries
    }

    /// Inode numbers by node: slots of the metadata area.
    fn place(&self, order: &[NodeId], bodies: &[Body]) -> Result<Vec<u64>> {
        let mut nids = vec![0; self.tree.nodes.len()];
        let mut position = 0;
        for (id, body) in order.iter().zip(bodies) {
            let (at, end) = inode::place(position, self.tree.node(*id), body)?;
            nids[id.0] = at / SLOT;
            position = end;
        }
        Ok(nids)
    }

    fn write_directories(
        &mut self,
        order: &[NodeId],
        bodies: &mut [Body],
        nids: &[u64],
    ) -> Result<()> {
        for (id, body) in order.iter().zip(bodies) {
            if self.tree.node(*id).content != Content::Directory {
                continue;
            }
            let sorted = self.sorted(*id);
            let entries: Vec<Named<'_>> = sorted
                .iter()
                .map(|(name, child)| Named {
                    name,
                    nid: nids[child.0],
                    file_type: file_type(inode::type_bits(&self.tree.node(*child).content)),
                })
                .collect();
            let bytes = directory::encode(&entries);
            match body {
                Body::Inline(inline) => *inline = bytes,
                Body::Blocks { block, .. } => {
                    let at = self.data.next_block()?;
                    debug_assert_eq!(at, *block, "blocks are used as they were given out");
                    self.data.append(&bytes)?;
                }
                Body::None(_) | Body::Chunks { .. } => {}
            }
        }
        Ok(())
    }

    fn write_inodes(
        &mut self,
        order: &[NodeId],
        bodies: &[Body],
        nids: &[u64],
        meta_block: u32,
    ) -> Result<()> {
        let start = u64::from(meta_block) << BLOCK_BITS;
        for (index, (id, body)) in order.iter().zip(bodies).enumerate() {
            let node = self.tree.node(*id);
            let links = if node.content == Content::Directory {
                let directories = node
                    .children
                    .values()
                    .filter(|child| self.is_directory(**child));
                2 + directories.count() as u32
            } else {
                node.names
            };
            let bytes = inode::encode(node, body, index as u32 + 1, links)?;
            self.data.advance_to(start + nids[id.0] * SLOT)?;
            self.data.append(&bytes)?;
        }
        Ok(())
    }
}

/// Gives directories that outgrew their inode their blocks; gives how many.
fn allocate(bodies: &mut [Body], first: u64) -> Result<u64> {
    let mut next = first;
    for body in bodies {
        if let Body::Blocks {
            block: block @ 0,
            size,
        } = body
        {
            *block = u32::try_from(next).map_err(|_| Error::ImageSize)?;
            next += size.div_ceil(1 << BLOCK_BITS);
        }
    }
    Ok(next - first)
}

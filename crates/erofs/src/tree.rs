//! The files of an image in memory: names and attributes, never data.

use std::collections::BTreeMap;

use crate::format::{NAME_MAX, SYMLINK_MAX};
use crate::{Attributes, Content, Device, Error, Limits, Result, xattr};

/// A file of the image being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) usize);

/// One file, whatever its names.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) attributes: Attributes,
    pub(crate) content: Content,
    pub(crate) children: BTreeMap<Box<[u8]>, NodeId>,
    pub(crate) parent: NodeId,
    /// Names, not counting `.` and `..`.
    pub(crate) names: u32,
}

/// All of them; the first is the root.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) nodes: Vec<Node>,
    limits: Limits,
    metadata: u64,
}

impl Tree {
    pub(crate) fn new(limits: Limits) -> Self {
        let root = Node {
            attributes: Attributes {
                mode: 0o755,
                ..Attributes::default()
            },
            content: Content::Directory,
            children: BTreeMap::new(),
            parent: NodeId(0),
            names: 1,
        };
        Tree {
            nodes: vec![root],
            limits,
            metadata: 0,
        }
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    pub(crate) fn lookup(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.node(parent).children.get(name).copied()
    }

    /// Adds a file under a name; one that has the name already loses it.
    pub(crate) fn add(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
        content: Content,
    ) -> Result<NodeId> {
        if self.nodes.len() as u64 >= self.limits.inodes {
            return Err(Error::Inodes(self.limits.inodes));
        }
        check(&attributes, &content)?;
        self.account(&attributes, &content)?;
        let id = NodeId(self.nodes.len());
        self.nodes.push(Node {
            attributes,
            content,
            children: BTreeMap::new(),
            parent,
            names: 0,
        });
        self.name(parent, name, id)?;
        Ok(id)
    }

    /// Gives a file a further name.
    pub(crate) fn name(&mut self, parent: NodeId, name: &[u8], id: NodeId) -> Result<()> {
        let wrong = name.is_empty()
            || name.len() > NAME_MAX
            || matches!(name, b"." | b"..")
            || name.iter().any(|byte| matches!(byte, 0 | b'/'));
        if wrong {
            return Err(Error::Name(String::from_utf8_lossy(name).into_owned()));
        }
        if self.node(parent).content != Content::Directory {
            return Err(Error::NotDirectory);
        }
        if self.node(id).content == Content::Directory && self.node(id).names > 0 {
            return Err(Error::LinkDirectory);
        }
        self.charge(name.len() as u64 + 64)?;
        self.remove(parent, name);
        self.nodes[parent.0].children.insert(name.into(), id);
        self.nodes[id.0].names += 1;
        Ok(())
    }

    /// Takes a name away.
    pub(crate) fn remove(&mut self, parent: NodeId, name: &[u8]) {
        if let Some(id) = self.nodes[parent.0].children.remove(name) {
            self.nodes[id.0].names -= 1;
        }
    }

    pub(crate) fn set_attributes(&mut self, id: NodeId, attributes: Attributes) -> Result<()> {
        xattr::body_len(&attributes.xattrs)?;
        self.account(&attributes, &Content::Directory)?;
        self.nodes[id.0].attributes = attributes;
        Ok(())
    }

    fn account(&mut self, attributes: &Attributes, content: &Content) -> Result<()> {
        let xattrs: u64 = attributes
            .xattrs
            .iter()
            .map(|(name, value)| (name.len() + value.len()) as u64)
            .sum();
        let content = match content {
            Content::File(data) => data.metadata(),
            Content::Symlink(target) => target.len() as u64,
            _ => 0,
        };
        self.charge(256 + xattrs + content)
    }

    fn charge(&mut self, bytes: u64) -> Result<()> {
        self.metadata += bytes;
        if self.metadata > self.limits.metadata {
            return Err(Error::Metadata(self.limits.metadata));
        }
        Ok(())
    }

    /// Every file that has a name, parents before children, in the order of names.
    pub(crate) fn walk(&self) -> Vec<NodeId> {
        let mut order = Vec::new();
        let mut seen = vec![false; self.nodes.len()];
        let mut stack = vec![NodeId(0)];
        while let Some(id) = stack.pop() {
            if std::mem::replace(&mut seen[id.0], true) {
                continue;
            }
            order.push(id);
            stack.extend(self.node(id).children.values().rev());
        }
        order
    }
}

fn check(attributes: &Attributes, content: &Content) -> Result<()> {
    xattr::body_len(&attributes.xattrs)?;
    match content {
        Content::Symlink(target) if target.is_empty() || target.len() > SYMLINK_MAX => {
            Err(Error::SymlinkLength(target.len()))
        }
        Content::CharDevice(Device { major, minor })
        | Content::BlockDevice(Device { major, minor })
            if *major >= 1 << 12 || *minor >= 1 << 20 =>
        {
            Err(Error::Device {
                major: *major,
                minor: *minor,
            })
        }
        _ => Ok(()),
    }
}

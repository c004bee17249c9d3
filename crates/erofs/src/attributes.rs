use std::collections::BTreeMap;

use crate::FileData;

/// Extended attributes: full name (`user.mime_type`) to value, sorted so that
/// the image does not depend on the order they came in.
pub type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// A point in time, as `struct timespec` counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since the epoch; negative before it.
    pub seconds: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// What every inode has, whatever its type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits with setuid, setgid and sticky: the low 12 bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of the content.
    pub mtime: Timestamp,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// A device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Major number, up to 4095.
    pub major: u32,
    /// Minor number, up to 1,048,575.
    pub minor: u32,
}

impl Device {
    /// The number overlayfs takes for "deleted here" when it is a character device.
    pub const WHITEOUT: Device = Device { major: 0, minor: 0 };
}

/// What an inode is and holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A directory; its entries are added one by one.
    Directory,
    /// A regular file, written before by [`crate::Writer::write_file`] or
    /// [`crate::Writer::write_sparse`].
    File(FileData),
    /// A symbolic link and its target.
    Symlink(Box<[u8]>),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

//! What a file server is asked to do.

use std::ffi::OsString;
use std::io::Read;

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};

/// What the server writes to its standard output once it serves; anything
/// else it writes there is why it does not.
pub const READY: &str = "ready\n";

/// Bytes of an order at most; a file name has 255.
const ORDER_LIMIT: u64 = 8192;

/// An order, read by the server from its standard input. It travels there, not
/// in arguments, because names of files are not ours to choose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Refuse every change.
    pub read_only: bool,
    /// What the host mounts later below a directory is served too.
    pub later: bool,
    /// What is served.
    pub tree: Tree,
}

/// What a file server serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tree {
    /// The directory it was given.
    Directory,
    /// One file of that directory.
    File(FileIdentity),
    /// Nothing of it: an empty directory, in which things appear while it
    /// serves ([`crate::Pod`]).
    Pod,
}

/// One file of a directory, and which it has to be still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Its name in the directory.
    pub name: OsString,
    /// `st_dev` when it was checked. stat(3type).
    pub device: u64,
    /// `st_ino` when it was checked.
    pub inode: u64,
}

impl FileIdentity {
    /// The name under which the guest finds a single file in the share.
    pub const SHARED_NAME: &'static str = "file";

    /// Identifies a file that was opened and checked.
    #[must_use]
    pub fn new(name: OsString, stat: &Stat) -> Self {
        Self {
            name,
            device: stat.st_dev,
            inode: stat.st_ino,
        }
    }

    /// Is this the file?
    pub(crate) fn fits(&self, stat: &Stat) -> bool {
        (self.device, self.inode) == (stat.st_dev, stat.st_ino)
    }
}

impl Order {
    /// The order in the form [`Order::read`] takes.
    ///
    /// # Errors
    ///
    /// None in practice: every order can be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Reads an order to the end of `from`.
    ///
    /// # Errors
    ///
    /// When it cannot be read, is too long, or is no order.
    pub fn read(from: impl Read) -> std::io::Result<Self> {
        let mut bytes = Vec::new();
        from.take(ORDER_LIMIT).read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_order_arrives(
            read_only: bool,
            later: bool,
            pod: bool,
            name in proptest::option::of(proptest::collection::vec(1u8..=255, 1..255)),
            device: u64,
            inode: u64,
        ) {
            let file = name.map(|name| FileIdentity {
                name: OsString::from_vec(name),
                device,
                inode,
            });
            let tree = match file {
                Some(file) => Tree::File(file),
                None if pod => Tree::Pod,
                None => Tree::Directory,
            };
            let order = Order { read_only, later, tree };
            let bytes = order.to_bytes().unwrap();
            prop_assert_eq!(Order::read(&bytes[..]).unwrap(), order);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Order::read(&bytes[..]);
        }
    }
}

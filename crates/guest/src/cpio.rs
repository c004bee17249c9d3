//! The archive format of an initramfs: cpio "newc", as the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst describes it.
//!
//! [`Writer`] makes archives that depend on nothing but what is put in: times are 0, inodes count
//! from 1, the owner is root. [`entries`] reads one back.

use std::io::{self, Write};

const MAGIC: &[u8; 6] = b"070701";
const HEADER: usize = 110;
const TRAILER: &str = "TRAILER!!!";
/// The kernel refuses longer names (PATH_MAX, init/initramfs.c).
const NAME_MAX: usize = 4096;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A character device with its major and minor number.
    CharDevice(u32, u32),
}

impl Kind {
    fn mode_bits(self) -> u32 {
        match self {
            Kind::File => 0o100_000,
            Kind::Directory => 0o040_000,
            Kind::CharDevice(..) => 0o020_000,
        }
    }
}

/// One entry of an archive that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The path, relative to the root, as written.
    pub name: &'a str,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub permissions: u32,
    /// A file's content; empty for the others.
    pub data: &'a [u8],
}

/// Writes an archive.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    inode: u32,
}

impl<W: Write> Writer<W> {
    /// Starts an archive on `out`.
    pub fn new(out: W) -> Self {
        Self { out, inode: 0 }
    }

    /// Adds an entry. Parents must be added before what they hold.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is empty, absolute, too long or has a NUL byte, and for data
    /// of 4 GiB or more, which the format cannot say; else what writing answers.
    pub fn add(&mut self, name: &str, kind: Kind, permissions: u32, data: &[u8]) -> io::Result<()> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let named = !name.is_empty() && !name.starts_with('/') && !name.contains('\0');
        if !named || name.len() >= NAME_MAX || name == TRAILER {
            return Err(bad("not a name an initramfs can hold"));
        }
        if kind != Kind::File && !data.is_empty() {
            return Err(bad("only files have data"));
        }
        let size = u32::try_from(data.len()).map_err(|_| bad("larger than 4 GiB"))?;
        self.inode += 1;
        let links = if kind == Kind::Directory { 2 } else { 1 };
        let device = if let Kind::CharDevice(major, minor) = kind {
            (major, minor)
        } else {
            (0, 0)
        };
        let mode = kind.mode_bits() | (permissions & 0o7777);
        self.header(
            [
                self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1,
            ],
            name,
        )?;
        self.out.write_all(data)?;
        self.pad(data.len())
    }

    /// Ends the archive and gives the output back.
    ///
    /// # Errors
    /// What writing answers.
    pub fn finish(mut self) -> io::Result<W> {
        self.header([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], TRAILER)?;
        Ok(self.out)
    }

    fn header(&mut self, fields: [u32; 11], name: &str) -> io::Result<()> {
        self.out.write_all(MAGIC)?;
        for field in fields {
            write!(self.out, "{field:08x}")?;
        }
        // The name's length counts its NUL; the last field is a checksum newc does not use.
        write!(self.out, "{:08x}{:08x}", name.len() + 1, 0)?;
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(HEADER + name.len() + 1)
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..padding(written)])
    }
}

fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

/// Reads the entries of `archive` up to its trailer.
///
/// # Errors
/// A sentence part saying what is wrong, for bytes that are no complete newc archive or that hold
/// an entry of a kind [`Writer`] never makes.
pub fn entries(archive: &[u8]) -> Result<Vec<Entry<'_>>, &'static str> {
    let mut rest = archive;
    let mut found = Vec::new();
    loop {
        let header = take(&mut rest, HEADER)?;
        let (magic, fields) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err("has no cpio header where one should be");
        }
        let field = |index: usize| hex_field(&fields[index * 8..index * 8 + 8]);
        let name_length = field(11)? as usize;
        if name_length == 0 || name_length > NAME_MAX {
            return Err("has a name of no possible length");
        }
        let name = take(&mut rest, name_length)?;
        take(&mut rest, padding(HEADER + name_length))?;
        let name = std::str::from_utf8(name).map_err(|_| "has a name that is not UTF-8")?;
        let name = name
            .strip_suffix('\0')
            .ok_or("has a name without its end")?;
        let size = field(6)? as usize;
        let data = take(&mut rest, size)?;
        if name == TRAILER {
            return Ok(found);
        }
        take(&mut rest, padding(size))?;
        let mode = field(1)?;
        let kind = match mode & 0o170_000 {
            0o100_000 => Kind::File,
            0o040_000 => Kind::Directory,
            0o020_000 => Kind::CharDevice(field(9)?, field(10)?),
            _ => return Err("has an entry that is no file, directory or character device"),
        };
        found.push(Entry {
            name,
            kind,
            permissions: mode & 0o7777,
            data,
        });
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], &'static str> {
    let (head, tail) = rest.split_at_checked(count).ok_or("ends too early")?;
    *rest = tail;
    Ok(head)
}

fn hex_field(digits: &[u8]) -> Result<u32, &'static str> {
    digits.iter().try_fold(0_u32, |value, digit| {
        let digit = char::from(*digit)
            .to_digit(16)
            .ok_or("has a header that is not hexadecimal")?;
        Ok(value << 4 | digit)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_written_reads_back_in_order() {
        let mut writer = Writer::new(Vec::new());
        writer.add("dev", Kind::Directory, 0o755, b"").unwrap();
        writer
            .add("dev/console", Kind::CharDevice(5, 1), 0o600, b"")
            .unwrap();
        writer.add("init", Kind::File, 0o555, b"\x7fELF").unwrap();
        let archive = writer.finish().unwrap();
        let entries = entries(&archive).unwrap();
        assert_eq!(entries[1].kind, Kind::CharDevice(5, 1));
        assert_eq!(entries[2].data, b"\x7fELF");
        assert_eq!(
            entries.iter().map(|e| e.name).collect::<Vec<_>>(),
            ["dev", "dev/console", "init"]
        );
    }

    #[test]
    fn names_the_kernel_would_refuse_are_refused_here() {
        for name in ["", "/init", "a\0b", TRAILER] {
            assert!(
                Writer::new(Vec::new())
                    .add(name, Kind::File, 0, b"")
                    .is_err(),
                "{name:?}"
            );
        }
    }

    #[test]
    fn an_archive_cut_short_is_an_error_wherever_it_is_cut() {
        let mut writer = Writer::new(Vec::new());
        writer.add("init", Kind::File, 0o555, b"12345").unwrap();
        let archive = writer.finish().unwrap();
        let end = archive.len() - padding(HEADER + TRAILER.len() + 1);
        for length in 0..end {
            assert!(entries(&archive[..length]).is_err(), "cut at {length}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = entries(&bytes);
        }

        #[test]
        fn any_file_survives_the_round_trip(name in "[a-z][a-z/]{0,30}",
                data in prop::collection::vec(any::<u8>(), 0..100), mode in 0_u32..0o10000) {
            let mut writer = Writer::new(Vec::new());
            writer.add(&name, Kind::File, mode, &data).unwrap();
            let archive = writer.finish().unwrap();
            prop_assert_eq!(archive.len() % 4, 0);
            let entry = Entry { name: &name, kind: Kind::File, permissions: mode, data: &data };
            prop_assert_eq!(entries(&archive).unwrap(), vec![entry]);
        }
    }
}

//! Sparse files as GNU tar packs them into PAX archives: versions 0.0, 0.1 and
//! 1.0. GNU tar manual, "Storing Sparse Files".

use std::io::{self, Read};

use bulkhead_erofs::Extent;
use tar::Entry;

/// Runs of one file at most.
const RUN_LIMIT: usize = 1 << 20;

/// Digits of a number at most.
const DIGITS: usize = 20;

/// A tar block.
const BLOCK: usize = 512;

/// What the extensions say of a sparse file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    /// Its real name, where the header has a made-up one.
    pub(super) name: Option<Vec<u8>>,
    /// Its size with its holes, bytes.
    size: Option<u64>,
    /// Offsets and lengths, one after the other.
    numbers: Vec<u64>,
    /// The map is in front of the data.
    in_data: bool,
}

fn wrong(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Is the entry a sparse file, and which?
pub(super) fn read<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Option<Sparse>> {
    let mut sparse = Sparse::default();
    let mut found = false;
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        if let Some(key) = extension.key_bytes().strip_prefix(b"GNU.sparse.") {
            sparse.take(key, extension.value_bytes())?;
            found = true;
        }
    }
    Ok(found.then_some(sparse))
}

fn number(text: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(text).ok();
    let number = text.and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| wrong("its sparse map has what is no number"))
}

impl Sparse {
    fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"offset" | b"numbytes" => self.push(number(value)?)?,
            b"map" => {
                for part in value.split(|byte| *byte == b',') {
                    self.push(number(part)?)?;
                }
            }
            b"major" => match number(value)? {
                0 => {}
                1 => self.in_data = true,
                _ => return Err(wrong("it is sparse in a form nobody knows")),
            },
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, number: u64) -> io::Result<()> {
        if self.numbers.len() >= 2 * RUN_LIMIT {
            return Err(wrong("its sparse map is too long"));
        }
        self.numbers.push(number);
        Ok(())
    }

    /// Its size and its runs, whose bytes `data` gives from then on.
    pub(super) fn map(mut self, data: &mut impl Read) -> io::Result<(u64, Vec<Extent>)> {
        if self.in_data {
            self.numbers = head(data)?;
        }
        let size = self
            .size
            .ok_or_else(|| wrong("it is sparse and has no size"))?;
        if !self.numbers.len().is_multiple_of(2) {
            return Err(wrong("its sparse map ends in the middle of a run"));
        }
        let runs = self.numbers.chunks_exact(2);
        let extents = runs.map(|pair| Extent {
            offset: pair[0],
            len: pair[1],
        });
        // The end of the file is told as an empty run.
        Ok((size, extents.filter(|extent| extent.len > 0).collect()))
    }
}

/// The map in front of the data: how many runs, then theirs, a number a line,
/// filled up to a whole block.
fn head(data: &mut impl Read) -> io::Result<Vec<u64>> {
    let mut bytes = Vec::new();
    let mut used = 0;
    let mut next = || -> io::Result<u64> {
        loop {
            if let Some(length) = bytes[used..].iter().position(|byte| *byte == b'\n') {
                let found = number(&bytes[used..used + length]);
                used += length + 1;
                return found;
            }
            if bytes.len() - used > DIGITS {
                return Err(wrong("its sparse map has what is no number"));
            }
            let start = bytes.len();
            bytes.resize(start + BLOCK, 0);
            data.read_exact(&mut bytes[start..])?;
        }
    };
    let count = usize::try_from(next()?).unwrap_or(usize::MAX);
    if count > RUN_LIMIT {
        return Err(wrong("its sparse map is too long"));
    }
    (0..2 * count).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sparse(pairs: &[(&str, &str)]) -> io::Result<Sparse> {
        let mut sparse = Sparse::default();
        for (key, value) in pairs {
            sparse.take(key.as_bytes(), value.as_bytes())?;
        }
        Ok(sparse)
    }

    fn extent(offset: u64, len: u64) -> Extent {
        Extent { offset, len }
    }

    #[test]
    fn all_three_versions_say_the_same() {
        let wanted = (5000, vec![extent(0, 10), extent(4096, 20)]);
        let oldest = [
            ("size", "5000"),
            ("offset", "0"),
            ("numbytes", "10"),
            ("offset", "4096"),
            ("numbytes", "20"),
        ];
        let old = [("size", "5000"), ("map", "0,10,4096,20,5000,0")];
        for pairs in [&oldest[..], &old[..]] {
            assert_eq!(
                sparse(pairs).unwrap().map(&mut io::empty()).unwrap(),
                wanted
            );
        }
        let new = [
            ("major", "1"),
            ("minor", "0"),
            ("realsize", "5000"),
            ("name", "a"),
        ];
        let mut data = b"3\n0\n10\n4096\n20\n5000\n0\n".to_vec();
        data.resize(BLOCK, 0);
        data.extend(b"DATA");
        let mut rest = data.as_slice();
        let new = sparse(&new).unwrap();
        assert_eq!(new.name.as_deref(), Some(&b"a"[..]));
        assert_eq!(new.map(&mut rest).unwrap(), wanted);
        assert_eq!(rest, b"DATA");
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(sparse(&[("major", "2")]).is_err());
        assert!(sparse(&[("map", "1,x")]).is_err());
        let odd = sparse(&[("size", "9"), ("map", "1")]).unwrap();
        assert!(odd.map(&mut io::empty()).is_err());
        let endless = sparse(&[("size", "9"), ("major", "1")]).unwrap();
        assert!(endless.map(&mut io::repeat(b'1')).is_err());
        let many = sparse(&[("size", "9"), ("major", "1")]).unwrap();
        assert!(many.map(&mut &b"99999999999\n"[..]).is_err());
    }

    proptest! {
        #[test]
        fn no_map_panics(data in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let new = sparse(&[("size", "9"), ("major", "1")]).unwrap();
            let _ = new.map(&mut data.as_slice());
        }
    }
}

//! The one disk that carries all layers of a container: a GPT, and each layer a partition.
//!
//! One virtio disk for any number of layers: a disk each would cost the guest a device, an
//! interrupt and memory for every layer, and machines have few slots. UEFI specification 2.10,
//! chapter 5.

use std::ops::Range;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;

/// Partitions at most: more layers than overlayfs takes.
pub const PARTITIONS_MAX: usize = 512;

const ENTRY: usize = 128;
/// Partitions begin where EROFS blocks do.
const ALIGN: u64 = 4096 / SECTOR;
/// "Linux filesystem data", as it is stored.
const TYPE: [u8; 16] = [
    0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
];

/// A piece of the disk, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The layer with this index, whole.
    Layer(usize),
}

/// Lays out a disk of layers with these sizes, multiples of 4096 bytes; partition `i + 1` is
/// layer `i`. `None` for more than [`PARTITIONS_MAX`] layers or other sizes.
#[must_use]
pub fn layout(sizes: &[u64]) -> Option<Vec<Piece>> {
    let fine = sizes.len() <= PARTITIONS_MAX && sizes.iter().all(|s| *s > 0 && s % 4096 == 0);
    if !fine {
        return None;
    }
    // At least 128 entries, as the specification asks.
    let entries = sizes.len().max(128).next_multiple_of(4);
    let table_sectors = (entries * ENTRY) as u64 / SECTOR;
    let first = (2 + table_sectors).next_multiple_of(ALIGN);
    let mut ranges = Vec::new();
    let mut next = first;
    for size in sizes {
        ranges.push(next..next + size / SECTOR);
        next += size / SECTOR;
    }
    let end = next;
    let table = table(&ranges, entries);
    let total = end + table_sectors + 1;
    let header = |own: u64, other: u64, table_at: u64| {
        Header {
            own,
            other,
            first,
            last: end - 1,
            table_at,
            entries,
            crc: crc32(&table),
        }
        .encode()
    };
    let mut head = protective_mbr(total);
    head.extend(header(1, total - 1, 2));
    head.extend(&table);
    head.resize((first * SECTOR) as usize, 0);
    let mut tail = table.clone();
    tail.extend(header(total - 1, 1, end));
    let mut pieces = vec![Piece::Bytes(head)];
    pieces.extend((0..sizes.len()).map(Piece::Layer));
    pieces.push(Piece::Bytes(tail));
    Some(pieces)
}

struct Header {
    own: u64,
    other: u64,
    first: u64,
    last: u64,
    table_at: u64,
    entries: usize,
    crc: u32,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; SECTOR as usize];
        out[..8].copy_from_slice(b"EFI PART");
        put(&mut out, 8, &0x0001_0000u32.to_le_bytes());
        put(&mut out, 12, &92u32.to_le_bytes());
        put(&mut out, 24, &self.own.to_le_bytes());
        put(&mut out, 32, &self.other.to_le_bytes());
        put(&mut out, 40, &self.first.to_le_bytes());
        put(&mut out, 48, &self.last.to_le_bytes());
        put(&mut out, 56, &guid(0));
        put(&mut out, 72, &self.table_at.to_le_bytes());
        put(&mut out, 80, &(self.entries as u32).to_le_bytes());
        put(&mut out, 84, &(ENTRY as u32).to_le_bytes());
        put(&mut out, 88, &self.crc.to_le_bytes());
        let crc = crc32(&out[..92]);
        put(&mut out, 16, &crc.to_le_bytes());
        out
    }
}

fn table(ranges: &[Range<u64>], entries: usize) -> Vec<u8> {
    let mut out = vec![0; entries * ENTRY];
    for (index, range) in ranges.iter().enumerate() {
        let at = index * ENTRY;
        put(&mut out, at, &TYPE);
        put(&mut out, at + 16, &guid(index as u32 + 1));
        put(&mut out, at + 32, &range.start.to_le_bytes());
        put(&mut out, at + 40, &(range.end - 1).to_le_bytes());
    }
    out
}

/// Unique on the disk, the same every time.
fn guid(number: u32) -> [u8; 16] {
    let mut guid = *b"bulkhead\0\0\0\0\0\0\0\0";
    guid[12..].copy_from_slice(&number.to_le_bytes());
    guid
}

fn protective_mbr(sectors: u64) -> Vec<u8> {
    let mut out = vec![0; SECTOR as usize];
    let size = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    put(
        &mut out,
        446,
        &[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0],
    );
    put(&mut out, 458, &size.to_le_bytes());
    put(&mut out, 510, &[0x55, 0xaa]);
    out
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_is_a_partition_that_tools_can_read() {
        let sizes = [4096, 1 << 20, 8192];
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("disk");
        let mut bytes = Vec::new();
        for piece in layout(&sizes).unwrap() {
            match piece {
                Piece::Bytes(part) => bytes.extend(part),
                Piece::Layer(index) => bytes.resize(bytes.len() + sizes[index] as usize, 1),
            }
        }
        assert_eq!(bytes.len() as u64 % SECTOR, 0);
        std::fs::write(&path, bytes).unwrap();
        let output = std::process::Command::new("sfdisk")
            .arg("--dump")
            .arg(&path)
            .output()
            .expect("sfdisk runs: `apt install fdisk`");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.stderr.is_empty(), "{output:?}");
        for size in sizes {
            assert!(
                text.replace(' ', "")
                    .contains(&format!("size={},", size / SECTOR)),
                "{text}"
            );
        }
    }

    #[test]
    fn a_hundred_layers_fit_and_odd_sizes_do_not() {
        assert_eq!(layout(&[4096; 300]).unwrap().len(), 302);
        assert!(layout(&[4096; 513]).is_none());
        assert!(layout(&[100]).is_none());
    }
}

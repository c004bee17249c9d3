//! Directory blocks: entries sorted by name, each block for itself.

use crate::format::{BLOCK_SIZE, DIRENT_LEN, put};

/// A name, the inode it leads to, and that inode's type.
pub(crate) struct Named<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) nid: u64,
    pub(crate) file_type: u8,
}

/// How many bytes entries with these names take, in order.
pub(crate) fn size<'a>(names: impl Iterator<Item = &'a [u8]>) -> u64 {
    let (mut full, mut used) = (0, 0);
    for name in names {
        let len = (DIRENT_LEN + name.len()) as u64;
        if used + len > BLOCK_SIZE {
            full += BLOCK_SIZE;
            used = 0;
        }
        used += len;
    }
    full + used
}

/// Encodes entries, sorted by name, to exactly [`size`] bytes.
pub(crate) fn encode(entries: &[Named<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let mut used = 0;
        let count = rest
            .iter()
            .take_while(|entry| {
                used += DIRENT_LEN + entry.name.len();
                used as u64 <= BLOCK_SIZE
            })
            .count();
        let (block, next) = rest.split_at(count);
        encode_block(block, &mut out);
        if !next.is_empty() {
            out.resize(out.len().next_multiple_of(BLOCK_SIZE as usize), 0);
        }
        rest = next;
    }
    out
}

fn encode_block(entries: &[Named<'_>], out: &mut Vec<u8>) {
    let start = out.len();
    let mut name_at = entries.len() * DIRENT_LEN;
    out.resize(start + name_at, 0);
    for (index, entry) in entries.iter().enumerate() {
        let at = start + index * DIRENT_LEN;
        put(out, at, &entry.nid.to_le_bytes());
        put(out, at + 8, &(name_at as u16).to_le_bytes());
        out[at + 10] = entry.file_type;
        out.extend_from_slice(entry.name);
        name_at += entry.name.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entries_take_what_was_computed(names in prop::collection::btree_set("[a-z]{1,200}", 1..120)) {
            let entries: Vec<Named<'_>> = names
                .iter()
                .map(|name| Named { name: name.as_bytes(), nid: 7, file_type: 1 })
                .collect();
            let bytes = encode(&entries);
            prop_assert_eq!(bytes.len() as u64, size(names.iter().map(String::as_bytes)));
        }
    }
}

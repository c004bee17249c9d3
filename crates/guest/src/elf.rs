//! The little of ELF a guest's files are checked for.

/// Longest program header table looked at: a kernel has about five segments.
const MAX_SEGMENTS: usize = 64;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
/// XEN_ELFNOTE_PHYS32_ENTRY (include/xen/interface/elfnote.h): where PVH boot enters.
const PHYS32_ENTRY: u32 = 18;

struct Segment {
    kind: u32,
    offset: usize,
    size: usize,
    align: usize,
}

/// The 32-bit physical address where a hypervisor enters an ELF kernel directly (the PVH boot
/// protocol), from the Xen note in `image`; `None` if it has none or is no 64-bit x86 ELF file.
#[must_use]
pub fn pvh_entry(image: &[u8]) -> Option<u64> {
    segments(image)?
        .iter()
        .filter(|s| s.kind == PT_NOTE)
        .find_map(|segment| {
            let notes = image.get(segment.offset..segment.offset.checked_add(segment.size)?)?;
            entry_note(notes, if segment.align == 8 { 8 } else { 4 })
        })
}

/// Whether `image` is an x86-64 ELF program that needs no dynamic linker; an error says which of
/// these it is not.
pub(crate) fn check_static(image: &[u8]) -> Result<(), &'static str> {
    let segments = segments(image).ok_or("is not a 64-bit x86 program")?;
    match segments.iter().any(|s| s.kind == PT_INTERP) {
        true => Err("is linked dynamically, and a guest has no dynamic linker"),
        false => Ok(()),
    }
}

fn segments(image: &[u8]) -> Option<Vec<Segment>> {
    // 64-bit, little-endian, EM_X86_64.
    if !image.starts_with(b"\x7fELF\x02\x01") || u16_at(image, 18)? != 62 {
        return None;
    }
    let table = u64_at(image, 32)?;
    let (size, count) = (
        usize::from(u16_at(image, 54)?),
        usize::from(u16_at(image, 56)?),
    );
    if size < 56 || count > MAX_SEGMENTS {
        return None;
    }
    (0..count)
        .map(|index| {
            let at = table.checked_add(index * size)?;
            let field = |offset: usize| u64_at(image, at.checked_add(offset)?);
            let kind = u32_at(image, at)?;
            Some(Segment {
                kind,
                offset: field(8)?,
                size: field(32)?,
                align: field(48)?,
            })
        })
        .collect()
}

fn entry_note(mut notes: &[u8], align: usize) -> Option<u64> {
    let padded = |length: u32| (length as usize).checked_next_multiple_of(align);
    loop {
        let (name, size) = (u32_at(notes, 0)?, u32_at(notes, 4)?);
        let data_at = padded(12_u32.checked_add(name)?)?;
        let data = notes.get(data_at..)?;
        if u32_at(notes, 8)? == PHYS32_ENTRY && notes.get(12..16)? == b"Xen\0" {
            return match size {
                4 => u32_at(data, 0).map(u64::from),
                8 => data.get(..8)?.try_into().ok().map(u64::from_le_bytes),
                _ => None,
            };
        }
        notes = data.get(padded(size)?..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        bytes.get(at..at.checked_add(2)?)?.try_into().ok()?,
    ))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    let value = u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?);
    usize::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An ELF file with one segment of `kind` holding `content`.
    fn elf(kind: u32, content: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 120];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18] = 62;
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        file[64..68].copy_from_slice(&kind.to_le_bytes());
        file[72] = 120;
        file[96..104].copy_from_slice(&(content.len() as u64).to_le_bytes());
        file[112] = 4;
        file.extend_from_slice(content);
        file
    }

    fn note(name: &[u8; 4], kind: u32, data: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for field in [4, data.len() as u32, kind] {
            note.extend_from_slice(&field.to_le_bytes());
        }
        note.extend_from_slice(name);
        note.extend_from_slice(data);
        note
    }

    #[test]
    fn the_entry_is_found_behind_other_notes() {
        let notes = [
            note(b"GNU\0", 3, &[9; 20]),
            note(b"Xen\0", 18, &[0, 0, 0, 1]),
        ]
        .concat();
        assert_eq!(pvh_entry(&elf(PT_NOTE, &notes)), Some(0x100_0000));
    }

    #[test]
    fn a_kernel_without_the_note_has_no_entry() {
        assert_eq!(
            pvh_entry(&elf(PT_NOTE, &note(b"GNU\0", 18, &[0, 0, 0, 1]))),
            None
        );
        assert_eq!(pvh_entry(b"MZ"), None);
    }

    #[test]
    fn a_program_that_names_a_dynamic_linker_is_not_static() {
        assert!(check_static(&elf(PT_INTERP, b"/lib64/ld-linux-x86-64.so.2\0")).is_err());
        assert!(check_static(&elf(PT_NOTE, b"")).is_ok());
        assert!(check_static(b"#!/bin/sh\n").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(notes in prop::collection::vec(any::<u8>(), 0..200),
                                  at in 6_usize..120, byte in any::<u8>()) {
            let mut file = elf(PT_NOTE, &notes);
            file[at] = byte;
            let _ = (pvh_entry(&file), check_static(&file));
        }
    }
}

//! Processors and memory the machine has, and the kernel was told at its start to
//! leave alone (docs/design/0014).
//!
//! Memory is taken in the kernel's own blocks: one that the firmware called memory
//! and that is not there yet is made known, then used. What was taken is not given
//! up again: free pages go back to the host by themselves.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Documentation/ABI/testing/sysfs-devices-system-cpu.
const PROCESSORS: &str = "/sys/devices/system/cpu";

/// Documentation/ABI/testing/sysfs-devices-memory.
const MEMORY: &str = "/sys/devices/system/memory";

/// What the firmware said, whatever the kernel made of it: Documentation/arch/x86/
/// zero-page.rst.
const FIRMWARE: &str = "/sys/kernel/boot_params/data";

/// In it: the count of entries, the entries, and how long one is.
const E820: (usize, usize, usize) = (0x1e8, 0x2d0, 20);

/// The type of an entry that is memory.
const RAM: u32 = 1;

/// Why something could not be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the spare {what} cannot be looked for")]
    Look {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("the processor {number} does not start")]
    Processor {
        number: u64,
        #[source]
        source: std::io::Error,
    },
    #[error("the memory at {address:#x} cannot be used")]
    Memory {
        address: u64,
        #[source]
        source: std::io::Error,
    },
}

/// What was taken so far.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    /// Bytes.
    memory: AtomicU64,
}

/// What there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    /// Processors that run.
    pub(crate) vcpus: u32,
    /// Memory beside that of the start, bytes.
    pub(crate) memory: u64,
}

impl Spare {
    /// Takes one block of memory or one processor, unless so much memory, bytes, was
    /// taken and so many processors run; whether there was something to take. The
    /// kernel takes its time for each: others want their turn in between. This process
    /// has one thread: nobody takes the same.
    ///
    /// # Errors
    /// What the kernel refused. What was taken before stays.
    pub(crate) fn take_one(&self, vcpus: u32, memory: u64) -> Result<bool, Error> {
        if self.memory.load(Ordering::Relaxed) < memory
            && let Some(block) = take_block()?
        {
            self.memory.fetch_add(block, Ordering::Relaxed);
            return Ok(true);
        }
        Ok(running()? < vcpus && start_processor()?)
    }

    /// What there is now.
    ///
    /// # Errors
    /// [`Error::Look`].
    pub(crate) fn taken(&self) -> Result<Taken, Error> {
        Ok(Taken {
            vcpus: running()?,
            memory: self.memory.load(Ordering::Relaxed),
        })
    }
}

fn look(what: &'static str) -> impl Fn(std::io::Error) -> Error + Copy {
    move |source| Error::Look { what, source }
}

/// How many processors run.
fn running() -> Result<u32, Error> {
    let online = Path::new(PROCESSORS).join("online");
    let text = std::fs::read_to_string(online).map_err(look("processors"))?;
    Ok(count(&text))
}

/// Whether there was one to start.
fn start_processor() -> Result<bool, Error> {
    let all = Path::new(PROCESSORS);
    for number in numbered(all, "cpu").map_err(look("processors"))? {
        // The first has no such file: it cannot be stopped.
        let switch = all.join(format!("cpu{number}/online"));
        if std::fs::read_to_string(&switch).is_ok_and(|state| state.trim() == "0") {
            let failed = |source| Error::Processor { number, source };
            std::fs::write(&switch, "1").map_err(failed)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Of a list like `0-3,8`: cpuset(7), "List format".
fn count(list: &str) -> u32 {
    let parts = list.trim().split(',');
    let lengths = parts.filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    });
    lengths.sum()
}

/// How much was taken, bytes; none: there is no more.
fn take_block() -> Result<Option<u64>, Error> {
    let look = look("memory");
    let all = Path::new(MEMORY);
    let size = std::fs::read_to_string(all.join("block_size_bytes")).map_err(look)?;
    let size = u64::from_str_radix(size.trim(), 16).ok();
    let size = size.filter(|size| *size > 0);
    let size = size.ok_or_else(|| look(std::io::ErrorKind::InvalidData.into()))?;
    let ram = ram(&std::fs::read(FIRMWARE).map_err(look)?);
    let present = numbered(all, "memory").map_err(look)?;
    let state = |block| all.join(format!("memory{block}/state"));
    // One that was made known and could not be used then is the last there is.
    let unused = present.last().copied().filter(|block| {
        let told = std::fs::read_to_string(state(*block));
        told.is_ok_and(|told| told.trim() == "offline")
    });
    let Some(block) = unused.or_else(|| first_spare(&ram, &present, size)) else {
        return Ok(None);
    };
    let address = block * size;
    let failed = |source| Error::Memory { address, source };
    if unused.is_none() {
        std::fs::write(all.join("probe"), format!("{address:#x}")).map_err(failed)?;
    }
    std::fs::write(state(block), "online").map_err(failed)?;
    Ok(Some(size))
}

/// The numbers of directories of a name and a number.
fn numbered(dir: &Path, name: &str) -> std::io::Result<BTreeSet<u64>> {
    let entries = std::fs::read_dir(dir)?.flatten();
    let numbers = entries.filter_map(|entry| {
        let own = entry.file_name();
        own.to_str()?.strip_prefix(name)?.parse().ok()
    });
    Ok(numbers.collect())
}

/// What the firmware called memory.
fn ram(boot_params: &[u8]) -> Vec<Range<u64>> {
    let (count, first, length) = E820;
    let entries = boot_params.get(count).copied().unwrap_or(0);
    let table = boot_params.get(first..).unwrap_or_default();
    let number = |entry: &[u8], at: usize| {
        let bytes = entry[at..at + 8].try_into();
        u64::from_le_bytes(bytes.expect("eight bytes"))
    };
    let ranges = table.chunks_exact(length).take(entries.into());
    let ranges = ranges.filter_map(|entry| {
        let kind = u32::from_le_bytes(entry[16..].try_into().expect("four bytes"));
        let start = number(entry, 0);
        let end = start.checked_add(number(entry, 8))?;
        (kind == RAM).then_some(start..end)
    });
    ranges.collect()
}

/// The number of the lowest block that is memory as a whole and not there.
fn first_spare(ram: &[Range<u64>], present: &BTreeSet<u64>, size: u64) -> Option<u64> {
    let blocks = ram
        .iter()
        .flat_map(|range| range.start.div_ceil(size)..range.end / size);
    blocks.filter(|block| !present.contains(block)).min()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: u64 = 128 << 20;

    fn boot_params(entries: &[(u64, u64, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[E820.0] = entries.len() as u8;
        for (index, (start, size, kind)) in entries.iter().enumerate() {
            let at = E820.1 + index * E820.2;
            bytes[at..at + 8].copy_from_slice(&start.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&size.to_le_bytes());
            bytes[at + 16..at + 20].copy_from_slice(&kind.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn whole_blocks_of_memory_that_are_not_there_are_spare() {
        // A machine of 313 MiB with the rest of 3 GiB and 256 MiB above the hole.
        let bytes = boot_params(&[
            (0, 0x9fc00, 1),
            (0xf0000, 0x10000, 2),
            (1 << 20, (3 << 30) - (1 << 20), 1),
            (4 << 30, 256 << 20, 1),
        ]);
        let ram = ram(&bytes);
        assert_eq!(ram.len(), 3);
        let mut present = BTreeSet::from([0, 1, 2]);
        let mut spare = Vec::new();
        while let Some(block) = first_spare(&ram, &present, BLOCK) {
            present.insert(block);
            spare.push(block);
        }
        assert_eq!(spare, (3..24).chain(32..34).collect::<Vec<_>>());
    }

    #[test]
    fn lists_of_processors_are_counted() {
        assert_eq!(count("0\n"), 1);
        assert_eq!(count("0-3,8\n"), 5);
        assert_eq!(count("\n"), 0);
        assert_eq!(count("3-1,x,0-4294967295"), 0);
    }

    proptest! {
        #[test]
        fn no_firmware_panics(bytes in prop::collection::vec(any::<u8>(), 0..1024)) {
            let mut whole = vec![0; E820.1];
            whole[E820.0] = 255;
            whole.extend(bytes);
            for range in ram(&whole) {
                prop_assert!(range.start <= range.end);
            }
        }
    }
}

//! What an idle container takes.

use crate::run::Outcome;

/// Kibibytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Process {
    /// Proportional share of everything resident.
    pub(super) pss: u64,
    /// Private pages, without the guest's memory.
    pub(super) private: u64,
    /// Guest memory that was touched.
    pub(super) guest: u64,
}

/// Reads /proc/PID/smaps; the mapping that is as large as the guest's memory,
/// bytes, is the guest's. proc_pid_smaps(5).
pub(super) fn of(pid: u64, guest_memory: u64) -> Outcome<Process> {
    let path = format!("/proc/{pid}/smaps");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let mut sum = Process::default();
    let mut guest = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(key), Some(value)) = (words.next(), words.next()) else {
            continue;
        };
        if !key.ends_with(':') {
            guest = size(key) == Some(guest_memory);
            continue;
        }
        let kib: u64 = value.parse().unwrap_or(0);
        match key {
            "Pss:" if !guest => sum.pss += kib,
            "Private_Clean:" | "Private_Dirty:" if !guest => sum.private += kib,
            "Rss:" if guest => sum.guest += kib,
            _ => {}
        }
    }
    Ok(sum)
}

/// What a guest of `size` has in use, as its /proc/meminfo and /proc/zoneinfo say
/// it: all that is neither free, also in the lists of a processor, nor cache that
/// can be dropped. Kibibytes, like everything here.
pub(super) fn in_use(size: u64, meminfo: &str, zoneinfo: &str) -> u64 {
    let field = |name: &str| -> u64 {
        let line = meminfo.lines().find(|line| line.starts_with(name));
        let word = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        word.unwrap_or(0)
    };
    let lists = zoneinfo.lines().filter_map(|line| {
        line.trim()
            .strip_prefix("count:")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    let free = field("MemFree:") + 4 * lists.sum::<u64>();
    let droppable = field("Cached:").saturating_sub(field("Shmem:")) + field("Buffers:");
    size.saturating_sub(free).saturating_sub(droppable)
}

/// Bytes of a range of addresses.
fn size(range: &str) -> Option<u64> {
    let (start, end) = range.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    number(end)?.checked_sub(number(start)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_is_not_in_use() {
        let meminfo = "MemTotal: 900 kB\nMemFree: 500 kB\nBuffers: 10 kB\nCached: 60 kB\n\
                       Shmem: 20 kB\n";
        let zoneinfo = "  pagesets\n    cpu: 0\n              count: 5\n              high:  9\n";
        assert_eq!(in_use(1000, meminfo, zoneinfo), 1000 - 500 - 20 - 40 - 10);
    }

    #[test]
    fn this_process_has_memory_of_its_own() {
        let own = of(std::process::id().into(), 0).unwrap();
        assert!(own.private > 0 && own.pss >= own.private && own.guest == 0);
        assert_eq!(size("1000-3000"), Some(0x2000));
    }
}

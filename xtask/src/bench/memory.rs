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
    fn this_process_has_memory_of_its_own() {
        let own = of(std::process::id().into(), 0).unwrap();
        assert!(own.private > 0 && own.pss >= own.private && own.guest == 0);
        assert_eq!(size("1000-3000"), Some(0x2000));
    }
}

//! What a container uses, from its cgroup's files.

use std::path::Path;

use super::error::Result;

/// Devices reported at most.
const DEVICE_LIMIT: usize = 256;

/// Use of one disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeviceIo {
    pub(crate) read_bytes: u64,
    pub(crate) write_bytes: u64,
}

/// Use of a container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stats {
    pub(crate) cpu_usage_usec: u64,
    pub(crate) cpu_user_usec: u64,
    pub(crate) cpu_system_usec: u64,
    pub(crate) cpu_throttled_usec: u64,
    pub(crate) memory_current: u64,
    pub(crate) memory_peak: u64,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) memory_inactive_file: u64,
    pub(crate) oom_kills: u64,
    pub(crate) pids_current: u64,
    pub(crate) pids_limit: Option<u64>,
    pub(crate) io: Vec<DeviceIo>,
}

fn text(dir: &Path, file: &str) -> String {
    // A controller may be off: its figures are then zero.
    std::fs::read_to_string(dir.join(file)).unwrap_or_default()
}

fn key(text: &str, key: &str) -> u64 {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

/// A single number; "max" is none.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Reads everything.
pub(super) fn read(dir: &Path) -> Result<Stats> {
    let cpu = text(dir, "cpu.stat");
    Ok(Stats {
        cpu_usage_usec: key(&cpu, "usage_usec"),
        cpu_user_usec: key(&cpu, "user_usec"),
        cpu_system_usec: key(&cpu, "system_usec"),
        cpu_throttled_usec: key(&cpu, "throttled_usec"),
        memory_current: number(&text(dir, "memory.current")).unwrap_or(0),
        memory_peak: number(&text(dir, "memory.peak")).unwrap_or(0),
        memory_limit: number(&text(dir, "memory.max")),
        memory_inactive_file: key(&text(dir, "memory.stat"), "inactive_file"),
        oom_kills: oom_kills(dir),
        pids_current: number(&text(dir, "pids.current")).unwrap_or(0),
        pids_limit: number(&text(dir, "pids.max")),
        io: io(&text(dir, "io.stat")),
    })
}

/// Processes the kernel killed for memory.
pub(super) fn oom_kills(dir: &Path) -> u64 {
    key(&text(dir, "memory.events"), "oom_kill")
}

fn io(text: &str) -> Vec<DeviceIo> {
    let field = |line: &str, name: &str| {
        let value = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix(name));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    let device = |line: &str| DeviceIo {
        read_bytes: field(line, "rbytes="),
        write_bytes: field(line, "wbytes="),
    };
    text.lines().take(DEVICE_LIMIT).map(device).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_cgroup_are_read() {
        assert_eq!(key("usage_usec 12\nuser_usec 5\n", "user_usec"), 5);
        assert_eq!(key("usage_usec 12\n", "usage"), 0);
        assert_eq!(number("max\n"), None);
        let io = io("254:0 rbytes=4096 wbytes=0 rios=1\n254:1 wbytes=7\n");
        assert_eq!(
            io[0],
            DeviceIo {
                read_bytes: 4096,
                write_bytes: 0
            }
        );
        assert_eq!(io[1].write_bytes, 7);
    }
}

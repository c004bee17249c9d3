//! Between messages and the agent's own types.

use std::os::fd::OwnedFd;
use std::time::Duration;

use bulkhead_protocol::{VERSION, agent};
use oci_spec::runtime;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;

use crate::container;
use crate::process::Ends;
use crate::spare::Taken;

/// Makes the child's stdio and the agent's ends of it.
pub(super) fn stdio(wanted: &agent::Stdio) -> std::io::Result<(container::Stdio, Ends)> {
    if wanted.terminal {
        return Ok((container::Stdio::Terminal, Ends::default()));
    }
    let mut ends = Ends::default();
    let stdin = if wanted.stdin {
        let (read, write) = pipe()?;
        ends.stdin = Some(write);
        read
    } else {
        null(OFlags::RDONLY)?
    };
    // Output is always drained, so that a process never gets SIGPIPE or
    // blocks because nobody listens.
    let (out_read, stdout) = pipe()?;
    let (err_read, stderr) = pipe()?;
    ends.stdout = Some(out_read);
    ends.stderr = Some(err_read);
    Ok((
        container::Stdio::Pipes {
            stdin,
            stdout,
            stderr,
        },
        ends,
    ))
}

fn pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

fn null(flags: OFlags) -> std::io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        "/dev/null",
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Rows and columns the spec gives a terminal.
pub(super) fn console_size(process: &runtime::Process) -> Option<(u16, u16)> {
    let size = process.console_size()?;
    let number = |number: u64| u16::try_from(number).ok().filter(|number| *number > 0);
    Some((number(size.height())?, number(size.width())?))
}

/// A started process and how long its parts took.
pub(super) fn process(pid: i32, phases: &[(&str, Duration)]) -> agent::ProcessResponse {
    let phases = phases.iter().map(|(name, took)| agent::Phase {
        name: (*name).to_owned(),
        micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        ..Default::default()
    });
    agent::ProcessResponse {
        pid: pid.unsigned_abs(),
        phases: phases.collect(),
        ..Default::default()
    }
}

/// What the guest has of its machine.
pub(super) fn resources(taken: Taken) -> agent::Resources {
    agent::Resources {
        vcpus: taken.vcpus,
        memory_bytes: taken.memory,
        ..Default::default()
    }
}

/// Who and where the agent is.
pub(super) fn hello(started_ns: u64) -> agent::HelloResponse {
    let (mem_total_kib, mem_available_kib) = memory();
    agent::HelloResponse {
        major: VERSION.0,
        minor: VERSION.1,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_release: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        agent_started_ns: started_ns,
        now_ns: crate::init::monotonic_ns(),
        mem_total_kib,
        mem_available_kib,
        ..Default::default()
    }
}

/// Total and available memory of the guest, KiB. proc_meminfo(5).
fn memory() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    (
        field("MemTotal:").unwrap_or(0),
        field("MemAvailable:").unwrap_or(0),
    )
}

/// Steps the wall clock to the host's. A guest without a clock is worse than
/// one a message's travel behind.
pub(super) fn set_clock(realtime_ns: u64) {
    let time = rustix::time::Timespec {
        tv_sec: (realtime_ns / 1_000_000_000) as i64,
        tv_nsec: (realtime_ns % 1_000_000_000) as _,
    };
    if let Err(error) = rustix::time::clock_settime(rustix::time::ClockId::Realtime, time) {
        crate::init::log(&format!("agent: the clock could not be set: {error}"));
    }
}

/// Statistics of a container and of its writable layer (used, size).
pub(super) fn stats(stats: &container::Stats, rootfs: (u64, u64)) -> agent::StatsResponse {
    let (guest_mem_total_kib, guest_mem_available_kib) = memory();
    agent::StatsResponse {
        cpu_usage_usec: stats.cpu_usage_usec,
        cpu_user_usec: stats.cpu_user_usec,
        cpu_system_usec: stats.cpu_system_usec,
        throttled_usec: stats.cpu_throttled_usec,
        memory_current: stats.memory_current,
        memory_peak: stats.memory_peak,
        memory_limit: stats.memory_limit.unwrap_or(0),
        memory_inactive_file: stats.memory_inactive_file,
        oom_kills: stats.oom_kills,
        pids_current: stats.pids_current,
        pids_limit: stats.pids_limit.unwrap_or(0),
        io_read_bytes: stats.io.iter().map(|device| device.read_bytes).sum(),
        io_write_bytes: stats.io.iter().map(|device| device.write_bytes).sum(),
        interfaces: crate::network::stats(),
        guest_mem_total_kib,
        guest_mem_available_kib,
        rootfs_used_bytes: rootfs.0,
        rootfs_size_bytes: rootfs.1,
        disks: crate::volumes::usage(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_the_size_the_spec_gives() {
        let size = |height: u64, width: u64| {
            let process = serde_json::json!({
                "cwd": "/", "user": {"uid": 0, "gid": 0},
                "consoleSize": {"height": height, "width": width},
            });
            console_size(&serde_json::from_value(process).unwrap())
        };
        assert_eq!(size(24, 80), Some((24, 80)));
        assert_eq!(size(0, 80), None);
        assert_eq!(size(1 << 40, 80), None);
    }
}

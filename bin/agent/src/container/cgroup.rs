//! A container's cgroup, version 2. Kernel documentation,
//! admin-guide/cgroup-v2.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};
use rustix::fs::{Mode, OFlags};

use super::error::{Error, Result, Tried};
use crate::init::CGROUP_ROOT;

/// Pids read at most.
const PID_LIMIT: usize = 1 << 20;

/// A cgroup that exists.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
    fd: OwnedFd,
}

impl Cgroup {
    /// Makes one for a container (a checked name).
    pub(super) fn create(id: &str) -> Result<Self> {
        let parent = Path::new(CGROUP_ROOT).join("bulkhead");
        let what = || "make the container's cgroup".to_owned();
        if !parent.exists() {
            std::fs::create_dir(&parent).tried(what)?;
            enable_all(&parent).tried(what)?;
        }
        let path = parent.join(id);
        std::fs::create_dir(&path).tried(what)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty()).tried(what)?;
        // Out of memory ends the container as a whole only when it says so;
        // the kernel picks one process, as for any container.
        Ok(Self { path, fd })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The cgroup below this one that a process of the container is in.
    pub(super) fn of_member(&self, pid: i32) -> Result<OwnedFd> {
        let what = || format!("find the cgroup of process {pid}");
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).tried(what)?;
        let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
        let path = Path::new(CGROUP_ROOT).join(own.unwrap_or_default());
        if !path.starts_with(&self.path) {
            return Err(Error::other(format!(
                "process {pid} left the container's cgroup"
            )));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty()).tried(what)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        std::fs::write(self.path.join(file), value)
            .tried(|| format!("set the limit `{file}` to `{value}`"))
    }

    /// Sets limits; what is not mentioned stays.
    pub(super) fn apply(&self, resources: &LinuxResources) -> Result<()> {
        if let Some(cpu) = resources.cpu() {
            self.cpu(cpu)?;
        }
        if let Some(memory) = resources.memory() {
            self.memory(memory)?;
        }
        if let Some(pids) = resources.pids() {
            // 0 is "no limit" to runc's callers; literally, nothing could fork.
            let most = if pids.limit() > 0 { pids.limit() } else { -1 };
            self.write("pids.max", &limit(most))?;
        }
        for page in resources.hugepage_limits().iter().flatten() {
            self.write(
                &format!("hugetlb.{}.max", page.page_size()),
                &page.limit().to_string(),
            )?;
        }
        self.io(resources)?;
        for (file, value) in resources.unified().iter().flatten() {
            if file.contains('/') || file.starts_with("cgroup.") {
                return Err(Error::invalid(format!("`{file}` is no limit of a cgroup")));
            }
            self.write(file, value)?;
        }
        Ok(())
    }

    fn cpu(&self, cpu: &LinuxCpu) -> Result<()> {
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
            self.write("cpu.weight", &weight(shares).to_string())?;
        }
        if let Some(idle) = cpu.idle() {
            self.write("cpu.idle", &idle.to_string())?;
        }
        if cpu.quota().unwrap_or(0) != 0 || cpu.period().unwrap_or(0) != 0 {
            let quota = limit(cpu.quota().filter(|quota| *quota != 0).unwrap_or(-1));
            let period = cpu
                .period()
                .filter(|period| *period != 0)
                .unwrap_or(100_000);
            self.write("cpu.max", &format!("{quota} {period}"))?;
        }
        if let Some(burst) = cpu.burst() {
            self.write("cpu.max.burst", &burst.to_string())?;
        }
        if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
            self.write("cpuset.cpus", cpus)?;
        }
        if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
            self.write("cpuset.mems", mems)?;
        }
        Ok(())
    }

    fn memory(&self, memory: &LinuxMemory) -> Result<()> {
        // 0 is "not given", as in runc: literally, all would be killed at once.
        if let Some(bytes) = memory.limit().filter(|bytes| *bytes != 0) {
            self.write("memory.max", &limit(bytes))?;
        }
        if let Some(bytes) = memory.reservation() {
            self.write("memory.low", &limit(bytes))?;
        }
        // The spec counts memory and swap together, the kernel swap alone.
        // The guest has no swap; a kernel without the file means the same.
        if let (Some(both @ (..=-1 | 1..)), Some(bytes @ (..=-1 | 1..))) =
            (memory.swap(), memory.limit())
            && self.path.join("memory.swap.max").exists()
        {
            let swap = if both < 0 {
                -1
            } else {
                both.saturating_sub(bytes).max(0)
            };
            self.write("memory.swap.max", &limit(swap))?;
        }
        Ok(())
    }

    fn io(&self, resources: &LinuxResources) -> Result<()> {
        let Some(io) = resources.block_io() else {
            return Ok(());
        };
        if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
            let weight = 1 + (u64::from(weight).saturating_sub(10)) * 9999 / 990;
            self.write("io.weight", &format!("default {weight}"))?;
        }
        let lists = [
            ("rbps", io.throttle_read_bps_device()),
            ("wbps", io.throttle_write_bps_device()),
            ("riops", io.throttle_read_iops_device()),
            ("wiops", io.throttle_write_iops_device()),
        ];
        for (key, list) in lists {
            for device in list.iter().flatten() {
                let line = format!(
                    "{}:{} {key}={}",
                    device.major(),
                    device.minor(),
                    device.rate()
                );
                self.write("io.max", &line)?;
            }
        }
        Ok(())
    }

    /// Pids of its processes, those of nested cgroups included.
    pub(super) fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        collect_pids(&self.path, &mut pids);
        pids.sort_unstable();
        Ok(pids)
    }

    /// SIGKILL for all, forks included. Linux 5.14.
    pub(super) fn kill(&self) -> Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// Freezes or thaws, and waits until it is so.
    pub(super) fn freeze(&self, freeze: bool) -> Result<()> {
        self.write("cgroup.freeze", if freeze { "1" } else { "0" })?;
        let wanted = if freeze { "frozen 1" } else { "frozen 0" };
        if wait_event(&self.path, wanted) {
            Ok(())
        } else {
            Err(Error::other(
                "the container's processes cannot be stopped: one waits in the kernel",
            ))
        }
    }

    /// Whether it is frozen, or about to be.
    pub(super) fn is_frozen(&self) -> bool {
        std::fs::read_to_string(self.path.join("cgroup.freeze"))
            .is_ok_and(|text| text.trim() == "1")
    }

    /// Kills what is left and removes it.
    pub(super) fn destroy(&self) -> Result<()> {
        let _ = self.kill();
        remove_tree(&self.path).tried(|| "remove the container's cgroup".to_owned())
    }
}

fn enable_all(dir: &Path) -> std::io::Result<()> {
    let available = std::fs::read_to_string(dir.join("cgroup.controllers"))?;
    let words: Vec<String> = available
        .split_whitespace()
        .map(|word| format!("+{word}"))
        .collect();
    std::fs::write(dir.join("cgroup.subtree_control"), words.join(" "))
}

fn collect_pids(dir: &Path, pids: &mut Vec<i32>) {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    pids.extend(
        text.lines()
            .filter_map(|line| line.parse::<i32>().ok())
            .take(PID_LIMIT),
    );
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && pids.len() < PID_LIMIT {
            collect_pids(&entry.path(), pids);
        }
    }
}

/// Removes a cgroup and those a container made inside it. Killed processes
/// leave a moment later, which `cgroup.events` would tell; the caller reaps
/// them first, so a few tries are enough.
fn remove_tree(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(dir) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            wait_event(dir, "populated 0");
            std::fs::remove_dir(dir)
        }
        other => other,
    }
}

/// Waits until `cgroup.events` says so; two seconds at most.
fn wait_event(dir: &Path, event: &str) -> bool {
    let Ok(file) = std::fs::File::open(dir.join("cgroup.events")) else {
        return false;
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(2);
    loop {
        let text = std::fs::read_to_string(dir.join("cgroup.events")).unwrap_or_default();
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        if text.lines().any(|line| line == event) {
            return true;
        }
        if left.is_zero() {
            return false;
        }
        let mut fds = [rustix::event::PollFd::new(
            &file,
            rustix::event::PollFlags::PRI,
        )];
        let timeout = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: left.as_nanos().min(100_000_000) as _,
        };
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
    }
}

fn limit(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

/// cgroup v1 shares (2 to 262144) as a v2 weight (1 to 10000), by the formula
/// runc and crun share.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 39);
        assert_eq!(weight(262_144), 10_000);
        assert_eq!(weight(0), 1);
    }

    #[test]
    fn no_limit_is_max() {
        assert_eq!(limit(-1), "max");
        assert_eq!(limit(5), "5");
    }
}

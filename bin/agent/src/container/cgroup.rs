//! A container's cgroup, version 2. Kernel documentation,
//! admin-guide/cgroup-v2.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxRdma, LinuxResources};
use rustix::fs::{Mode, OFlags};

use super::error::{Error, Result, Tried};
use super::refusal;
use crate::init::CGROUP_ROOT;

/// Pids read at most.
const PID_LIMIT: usize = 1 << 20;

/// Limits the processes and threads of all containers together.
///
/// # Errors
/// The kernel's.
pub(crate) fn limit_pids(most: u64) -> std::io::Result<()> {
    std::fs::write(parent()?.join("pids.max"), most.to_string())
}

/// The cgroup that holds those of all containers.
fn parent() -> std::io::Result<PathBuf> {
    let parent = Path::new(CGROUP_ROOT).join("bulkhead");
    if !parent.exists() {
        std::fs::create_dir(&parent)?;
        enable_all(&parent)?;
    }
    Ok(parent)
}

/// A cgroup that exists.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
    fd: OwnedFd,
}

impl Cgroup {
    /// Makes one for a container (a checked name).
    pub(super) fn create(id: &str) -> Result<Self> {
        let what = || "make the container's cgroup".to_owned();
        let path = parent().tried(what)?.join(id);
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

    /// The container's, which it was made for.
    pub(super) fn name(&self) -> &str {
        let name = self.path.file_name().and_then(|name| name.to_str());
        name.unwrap_or_default()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.path.join(file);
        if !path.exists() {
            return Err(Error::invalid(format!(
                "the limit `{file}` cannot be had: the guest kernel's control groups lack it"
            )));
        }
        std::fs::write(path, value).tried(|| format!("set the limit `{file}` to `{value}`"))
    }

    /// Sets limits; what is not mentioned stays.
    pub(super) fn apply(&self, resources: &LinuxResources) -> Result<()> {
        refusal::resources(resources)?;
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
            let size = page_size(page.page_size())?;
            self.write(&format!("hugetlb.{size}.max"), &limit(page.limit()))?;
        }
        for (device, wanted) in resources.rdma().iter().flatten() {
            self.write("rdma.max", &rdma(device, wanted)?)?;
        }
        self.io(resources)?;
        for (file, value) in resources.unified().iter().flatten() {
            if file.contains('/') || file.contains("..") || file.starts_with("cgroup.") {
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
        let quota = cpu.quota().filter(|quota| *quota != 0).map(limit);
        match (quota, cpu.period().filter(|period| *period != 0)) {
            (None, None) => {}
            // The kernel keeps the period.
            (Some(quota), None) => self.write("cpu.max", &quota)?,
            (quota, Some(period)) => {
                let quota = quota.unwrap_or_else(|| self.quota());
                self.write("cpu.max", &format!("{quota} {period}"))?;
            }
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

    /// The quota that holds.
    fn quota(&self) -> String {
        let text = std::fs::read_to_string(self.path.join("cpu.max")).unwrap_or_default();
        text.split_whitespace().next().unwrap_or("max").to_owned()
    }

    /// A limit below what is used ends a process at once, which a caller may
    /// want to know beforehand.
    fn refuse_full(&self, most: i64) -> Result<()> {
        let text = std::fs::read_to_string(self.path.join("memory.current"));
        let used: u64 = text
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
        match u64::try_from(most) {
            Ok(most) if most < used => Err(Error::invalid(format!(
                "a memory limit of {most} bytes is below the {used} bytes in use"
            ))),
            _ => Ok(()),
        }
    }

    fn memory(&self, memory: &LinuxMemory) -> Result<()> {
        if let (Some(true), Some(most @ 1..)) = (memory.check_before_update(), memory.limit()) {
            self.refuse_full(most)?;
        }
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
            self.write("io.weight", &format!("default {}", io_weight(weight)))?;
        }
        for device in io.weight_device().iter().flatten() {
            let (major, minor) = (device.major(), device.minor());
            if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
                let line = format!("{major}:{minor} {}", io_weight(weight));
                self.write("io.weight", &line)?;
            }
        }
        let lists = [
            ("rbps", io.throttle_read_bps_device()),
            ("wbps", io.throttle_write_bps_device()),
            ("riops", io.throttle_read_iops_device()),
            ("wiops", io.throttle_write_iops_device()),
        ];
        for (key, list) in lists {
            for device in list.iter().flatten() {
                // 0 is "no limit" in version 1, whose words the spec has.
                let rate = match device.rate() {
                    0 => "max".to_owned(),
                    rate => rate.to_string(),
                };
                let line = format!("{}:{} {key}={rate}", device.major(), device.minor());
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

/// A page size as the kernel names it: "2MB". It becomes part of a file's name.
fn page_size(text: &str) -> Result<&str> {
    let number = ["KB", "MB", "GB"]
        .iter()
        .find_map(|unit| text.strip_suffix(unit));
    match number.map(str::parse::<u32>) {
        Some(Ok(1..)) => Ok(text),
        _ => Err(Error::invalid(format!(
            "`{text}` is no size of huge pages; write `2MB`, for example"
        ))),
    }
}

/// A line of `rdma.max`.
fn rdma(device: &str, wanted: &LinuxRdma) -> Result<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if device.is_empty() || !device.bytes().all(plain) {
        return Err(Error::invalid(format!("`{device}` is no RDMA device")));
    }
    let mut line = device.to_owned();
    for (key, value) in [
        ("hca_handle", wanted.hca_handles()),
        ("hca_object", wanted.hca_objects()),
    ] {
        if let Some(value) = value {
            line.push_str(&format!(" {key}={value}"));
        }
    }
    Ok(line)
}

/// A weight of version 1 (10 to 1000) as one of version 2 (1 to 10000).
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.clamp(10, 1000) - 10) * 9999 / 990
}

/// cgroup v1 shares (2 to 262144) as a v2 weight (1 to 10000), by the formula
/// runc and crun share.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shares_become_weights() {
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 39);
        assert_eq!(weight(262_144), 10_000);
        assert_eq!(weight(0), 1);
    }

    /// A control group as a directory of plain files.
    fn group(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let fd = std::fs::File::open(dir.path()).unwrap().into();
        let path = dir.path().to_owned();
        (dir, Cgroup { path, fd })
    }

    fn apply(group: &Cgroup, resources: serde_json::Value) -> Result<()> {
        group.apply(&serde_json::from_value(resources).unwrap())
    }

    #[test]
    fn what_the_kernel_lacks_is_refused_by_name() {
        let (_dir, group) = group(&[]);
        for (resources, name) in [
            (json!({"rdma": {"mlx5_1": {"hcaHandles": 3}}}), "rdma.max"),
            (
                json!({"unified": {"memory.zswap.max": "1"}}),
                "memory.zswap.max",
            ),
            (json!({"unified": {"../x": "1"}}), "../x"),
            (json!({"unified": {"cgroup.freeze": "1"}}), "cgroup.freeze"),
            (
                json!({"hugepageLimits": [{"pageSize": "1GB", "limit": 1}]}),
                "hugetlb.1GB.max",
            ),
            (
                json!({"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}),
                "../2MB",
            ),
            (json!({"rdma": {"a b=c": {}}}), "a b=c"),
        ] {
            let text = apply(&group, resources).unwrap_err().to_string();
            assert!(text.contains(&format!("`{name}`")), "{text}");
        }
    }

    #[test]
    fn limits_become_the_kernels_words() {
        let files = [
            "rdma.max",
            "io.weight",
            "io.max",
            "hugetlb.2MB.max",
            "memory.high",
        ];
        let (dir, group) = group(&files.map(|name| (name, "")));
        let resources = json!({
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 100}},
            "blockIO": {
                "weightDevice": [{"major": 254, "minor": 0, "weight": 1000}],
                "throttleReadBpsDevice": [{"major": 254, "minor": 16, "rate": 4096}],
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
            "unified": {"memory.high": "1000"},
        });
        apply(&group, resources).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            files.map(read),
            [
                "mlx5_1 hca_handle=3 hca_object=100",
                "254:0 10000",
                "254:16 rbps=4096",
                "4194304",
                "1000"
            ]
        );
    }

    #[test]
    fn an_update_keeps_what_it_does_not_mention() {
        let (dir, group) = group(&[("cpu.max", "20000 50000"), ("pids.max", "7")]);
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        apply(&group, json!({"cpu": {"period": 40000}})).unwrap();
        assert_eq!(read("cpu.max"), "20000 40000");
        // The kernel keeps its period then.
        apply(&group, json!({"cpu": {"quota": 10000}})).unwrap();
        assert_eq!(
            (read("cpu.max"), read("pids.max")),
            ("10000".into(), "7".into())
        );
    }

    #[test]
    fn a_limit_below_what_is_used_is_refused_when_asked() {
        let (dir, group) = group(&[("memory.current", "5000\n"), ("memory.max", "max")]);
        let check = |most: u32| json!({"memory": {"limit": most, "checkBeforeUpdate": true}});
        let text = apply(&group, check(4999)).unwrap_err().to_string();
        assert!(text.contains("4999") && text.contains("5000"), "{text}");
        apply(&group, check(5000)).unwrap();
        let most = std::fs::read_to_string(dir.path().join("memory.max")).unwrap();
        assert_eq!(most, "5000");
    }

    #[test]
    fn no_limit_is_max() {
        assert_eq!(limit(-1), "max");
        assert_eq!(limit(5), "5");
    }
}

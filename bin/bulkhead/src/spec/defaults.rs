//! What every container gets: mounts, namespaces, hidden paths. The same as
//! Podman's (containers-common), so that images behave the same.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, Mount};

use super::SpecError;
use super::mounts::mount;

/// Below /proc and /sys: what tells or changes too much.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
];

const READ_ONLY: [&str; 6] = [
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Paths to mask; none when privileged.
pub(super) fn masked(privileged: bool) -> Vec<String> {
    if privileged {
        Vec::new()
    } else {
        MASKED.map(str::to_owned).to_vec()
    }
}

/// Paths to make read-only; none when privileged.
pub(super) fn read_only(privileged: bool) -> Vec<String> {
    if privileged {
        Vec::new()
    } else {
        READ_ONLY.map(str::to_owned).to_vec()
    }
}

/// Namespaces of its own. The network is the virtual machine's.
pub(super) fn namespaces() -> Result<Vec<LinuxNamespace>, SpecError> {
    [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Cgroup,
    ]
    .into_iter()
    .map(|kind| Ok(LinuxNamespaceBuilder::default().typ(kind).build()?))
    .collect()
}

/// The mounts under all others.
pub(super) fn mounts(shm_size: u64, privileged: bool) -> Result<Vec<Mount>, SpecError> {
    let access = if privileged { "rw" } else { "ro" };
    let shm = format!("size={shm_size}");
    let rows: [(&str, &str, &str, &[&str]); 7] = [
        ("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"]),
        (
            "tmpfs",
            "tmpfs",
            "/dev",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        (
            "sysfs",
            "sysfs",
            "/sys",
            &["nosuid", "noexec", "nodev", access],
        ),
        (
            "devpts",
            "devpts",
            "/dev/pts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        (
            "mqueue",
            "mqueue",
            "/dev/mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        (
            "tmpfs",
            "shm",
            "/dev/shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &shm],
        ),
        (
            "cgroup",
            "cgroup",
            "/sys/fs/cgroup",
            &["rprivate", "nosuid", "noexec", "nodev", "relatime", access],
        ),
    ];
    rows.into_iter()
        .map(|(kind, source, target, options)| {
            let options = options.iter().map(|&word| word.to_owned()).collect();
            mount(kind, source, &PathBuf::from(target), options)
        })
        .collect()
}

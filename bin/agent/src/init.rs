//! What PID 1 does before anything else: filesystems, modules, a root that
//! can be pivoted from, and how it ends.

use std::ffi::CStr;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};

/// Why the guest could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("`{kind}` could not be mounted on `{target}`")]
    Mount {
        kind: &'static str,
        target: &'static str,
        #[source]
        source: Errno,
    },
    #[error("the root could not be moved off the initramfs: {step}")]
    Root {
        step: &'static str,
        #[source]
        source: Errno,
    },
    #[error("the module `{module}` could not be loaded")]
    Module {
        module: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the cgroup controllers could not be enabled")]
    Cgroup(#[source] std::io::Error),
}

struct Filesystem {
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    data: &'static CStr,
}

const NONE: MountFlags = MountFlags::empty();
const SAFE: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// In this order; paths below the new root.
const FILESYSTEMS: [Filesystem; 6] = [
    Filesystem {
        kind: "proc",
        target: "proc",
        flags: SAFE,
        data: c"",
    },
    Filesystem {
        kind: "sysfs",
        target: "sys",
        flags: SAFE,
        data: c"",
    },
    Filesystem {
        kind: "devtmpfs",
        target: "dev",
        flags: MountFlags::NOSUID,
        data: c"mode=0755",
    },
    Filesystem {
        kind: "devpts",
        target: "dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        data: c"newinstance,ptmxmode=0666,mode=0620,gid=5",
    },
    Filesystem {
        kind: "tmpfs",
        target: "run",
        flags: MountFlags::NOSUID,
        data: c"mode=0755",
    },
    Filesystem {
        kind: "cgroup2",
        target: "sys/fs/cgroup",
        flags: SAFE,
        data: c"nsdelegate,memory_recursiveprot",
    },
];

/// Mounts what userspace needs and leaves the initramfs. Afterwards `/` is a
/// tmpfs, so that containers can pivot_root(2) away from it: the initramfs
/// itself can never be left that way, and a container with CAP_SYS_ADMIN
/// could uncover it.
pub(crate) fn prepare() -> Result<(), Error> {
    load_modules()?;
    new_root()?;
    for filesystem in &FILESYSTEMS {
        mount(filesystem)?;
    }
    enable_controllers().map_err(Error::Cgroup)?;
    // Forwarded packets of bridges inside the guest, and ping as any user.
    let _ = std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    Ok(())
}

fn mount(filesystem: &Filesystem) -> Result<(), Error> {
    let Filesystem {
        kind,
        target,
        flags,
        data,
    } = filesystem;
    let failed = |source| Error::Mount {
        kind,
        target,
        source,
    };
    match rustix::fs::mkdir(format!("/{target}"), Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(failed(error)),
    }
    rustix::mount::mount(*kind, format!("/{target}"), *kind, *flags, Some(*data)).map_err(failed)
}

fn new_root() -> Result<(), Error> {
    let failed = |step| move |source| Error::Root { step, source };
    let _ = rustix::fs::mkdir("/root", Mode::from_raw_mode(0o755));
    rustix::mount::mount("tmpfs", "/root", "tmpfs", NONE, Some(c"mode=0755,size=16m"))
        .map_err(failed("mount a tmpfs"))?;
    // Modules are loaded: their files need not stay in memory.
    let _ = std::fs::remove_dir_all("/modules");
    rustix::process::chdir("/root").map_err(failed("enter the new root"))?;
    rustix::mount::mount_move(".", "/").map_err(failed("move the new root"))?;
    rustix::process::chroot(".").map_err(failed("change the root"))?;
    rustix::process::chdir("/").map_err(failed("enter the new root"))?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE)
        .map_err(failed("make it private"))
}

/// Loads `/modules/*.ko` in the order of their names: a distribution's kernel
/// brings its drivers so; the tuned kernel has none.
fn load_modules() -> Result<(), Error> {
    let Ok(entries) = std::fs::read_dir("/modules") else {
        return Ok(());
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    for path in paths {
        load_module(&path).map_err(|source| Error::Module {
            module: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            source,
        })?;
    }
    Ok(())
}

fn load_module(path: &Path) -> std::io::Result<()> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    match rustix::system::finit_module(&file, c"", 0) {
        // Already there, or built in.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Where containers' cgroups are.
pub(crate) const CGROUP_ROOT: &str = "/sys/fs/cgroup";

fn enable_controllers() -> std::io::Result<()> {
    let available = std::fs::read_to_string(format!("{CGROUP_ROOT}/cgroup.controllers"))?;
    let wanted: Vec<String> = available
        .split_whitespace()
        .map(|controller| format!("+{controller}"))
        .collect();
    std::fs::write(
        format!("{CGROUP_ROOT}/cgroup.subtree_control"),
        wanted.join(" "),
    )
}

/// Guest CLOCK_MONOTONIC, nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Writes a line to the kernel log, which the host keeps the end of.
pub(crate) fn log(line: &str) {
    // One write is one record; /dev may not be mounted yet.
    for path in ["/dev/kmsg", "/dev/console"] {
        if let Ok(mut file) = std::fs::OpenOptions::new().write(true).open(path)
            && file.write_all(format!("<3>{line}\n").as_bytes()).is_ok()
        {
            return;
        }
    }
}

/// A panic of PID 1 would only say "attempted to kill init".
pub(crate) fn report_panics() {
    std::panic::set_hook(Box::new(|info| log(&format!("agent: {info}"))));
}

/// Ends the virtual machine. The monitor takes the reset as the end.
pub(crate) fn power_off() -> ! {
    rustix::fs::sync();
    let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
    // Not reached in a virtual machine; PID 1 must not return in any case.
    std::process::exit(1)
}

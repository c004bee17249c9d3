//! `bulkhead check`: can this host run containers, how fast, what to fix.

use std::path::Path;
use std::process::ExitCode;

use bulkhead_guest::{Cache, Preference};
use bulkhead_provision::monitor::{self, Accelerator};
use serde::Serialize;

use crate::cli::{CheckOptions, Format};
use crate::report::Outcome;
use crate::style;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    /// It works, not as well as it could.
    Slow,
    /// It does not work.
    Bad,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    detail: String,
}

fn finding(what: &'static str, verdict: Verdict, detail: impl Into<String>) -> Finding {
    Finding {
        what,
        verdict,
        detail: detail.into(),
    }
}

/// Looks at everything and prints it; fails when something is bad.
pub(super) fn run(options: &CheckOptions) -> Outcome {
    let findings = [
        qemu(),
        virtualization(),
        huge_pages(),
        cgroups(),
        guest(),
        tools(),
        kernel_memory(),
        shared_memory(),
        locked_memory(),
    ];
    if options.format.format == Format::Json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            let mark = match finding.verdict {
                Verdict::Good => style::good("ok  "),
                Verdict::Slow => style::bad("slow"),
                Verdict::Bad => style::bad("bad "),
            };
            println!("{mark}  {:<15} {}", finding.what, finding.detail);
        }
    }
    let bad = findings
        .iter()
        .any(|finding| finding.verdict == Verdict::Bad);
    Ok(if bad {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn qemu() -> Finding {
    match monitor::ask() {
        Ok((program, version)) => {
            let turns = match version.translates_in_parallel() {
                true => "",
                false => "; before 8.1 emulated machines use one processor, however many they have",
            };
            let detail = format!("QEMU {version} at {}{turns}", program.path().display());
            finding("monitor", Verdict::Good, detail)
        }
        Err(error) => finding("monitor", Verdict::Bad, crate::report::chain(&error)),
    }
}

fn virtualization() -> Finding {
    match monitor::probe("auto") {
        Ok(Accelerator::Kvm { round_ns }) => finding(
            "virtualization",
            Verdict::Good,
            format!("KVM runs guests; {round_ns} ns for a round of privileged instructions"),
        ),
        Ok(Accelerator::Tcg { reason, .. }) => finding("virtualization", Verdict::Slow, reason),
        Err(error) => finding("virtualization", Verdict::Bad, crate::report::chain(&error)),
    }
}

/// Starting a machine moves a kernel thread between cgroups, under a lock that
/// favours readers, unless one of these two is set.
fn huge_pages() -> Finding {
    let parameter = std::fs::read_to_string("/sys/module/kvm/parameters/nx_huge_pages");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    match parameter.as_deref().map(str::trim) {
        Ok("N" | "never") => finding("start time", Verdict::Good, "kvm.nx_huge_pages is off"),
        Ok(_) if !mounts.contains("favordynmods") => finding(
            "start time",
            Verdict::Slow,
            "kvm.nx_huge_pages is on and cgroup2 is mounted without favordynmods: each start \
             waits for a grace period; `mount -o remount,favordynmods /sys/fs/cgroup`, or set \
             kvm.nx_huge_pages=never on processors without iTLB multihit",
        ),
        _ => finding(
            "start time",
            Verdict::Good,
            "nothing of the host slows machine creation",
        ),
    }
}

fn cgroups() -> Finding {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let detail = if unified {
        "cgroup v2 on the host"
    } else {
        "cgroup v1 on the host; guests have v2 of their own, so containers do not notice"
    };
    finding("cgroups", Verdict::Good, detail)
}

fn guest() -> Finding {
    match Cache::find_default(Preference::Auto) {
        Ok(guest) => finding(
            "guest",
            Verdict::Good,
            format!(
                "{} kernel, {}",
                guest.manifest.kind.word(),
                guest.manifest.source
            ),
        ),
        Err(error) => finding("guest", Verdict::Bad, error.to_string()),
    }
}

fn tools() -> Finding {
    let wanted = [("mke2fs", "e2fsprogs"), ("passt", "passt")];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<_> = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .collect();
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|(name, _)| !dirs.iter().any(|dir| dir.join(name).is_file()))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        finding("tools", Verdict::Good, "mke2fs and passt are there")
    } else {
        finding(
            "tools",
            Verdict::Bad,
            format!("missing; `apt install {}`", missing.join(" ")),
        )
    }
}

fn kernel_memory() -> Finding {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"));
    let kib: u64 = line
        .and_then(|l| l.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0);
    let verdict = if kib >= 256 << 10 {
        Verdict::Good
    } else {
        Verdict::Bad
    };
    finding(
        "memory",
        verdict,
        format!("{} available", style::bytes(kib * 1024)),
    )
}

/// Guests' memory is of memfd_create(2): tmpfs(5) without a mount, which the size
/// of /dev/shm does not bound, but the control group does.
fn shared_memory() -> Finding {
    let size = rustix::fs::statvfs("/dev/shm").map(|stat| stat.f_blocks * stat.f_frsize);
    let shown = size.map_or_else(|_| "not mounted".to_owned(), style::bytes);
    finding(
        "/dev/shm",
        Verdict::Good,
        format!("{shown}; guests do not use it, whatever its size"),
    )
}

/// Nothing of a guest is locked, so that no limit has to be raised: getrlimit(2).
fn locked_memory() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let shown = limit.map_or_else(|| "unlimited".to_owned(), style::bytes);
    finding(
        "memory lock",
        Verdict::Good,
        format!("{shown}; guests' memory is not locked, so that it need not be raised"),
    )
}

//! What a process may do: limits, ids, capabilities, seccomp. The order is
//! runc's: a filter loaded without no_new_privs needs CAP_SYS_ADMIN, so it
//! comes before the capabilities go; with it, it comes last.

use oci_spec::runtime::{Capabilities, Capability, PosixRlimitType, Process};

use super::accounts::Identity;
use super::error::{Error, Result, Tried};
use super::{scheduling, syscalls};

/// Restricts the calling child to what the process may do.
pub(super) fn apply(
    process: &Process,
    identity: &Identity,
    seccomp: Option<&[u8]>,
    keep_groups: bool,
) -> Result<()> {
    for limit in process.rlimits().iter().flatten() {
        syscalls::setrlimit(resource(limit.typ()), limit.soft(), limit.hard())
            .tried(|| format!("set the limit {}", limit.typ()))?;
    }
    scheduling::apply(process)?;
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    if no_new_privileges {
        syscalls::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).tried(|| "set no_new_privs".to_owned())?;
    } else if let Some(program) = seccomp {
        syscalls::load_seccomp(program)?;
    }
    ids_and_capabilities(process, identity, keep_groups)?;
    if let (true, Some(program)) = (no_new_privileges, seccomp) {
        syscalls::load_seccomp(program)?;
    }
    Ok(())
}

fn ids_and_capabilities(process: &Process, identity: &Identity, keep_groups: bool) -> Result<()> {
    let sets = process.capabilities().as_ref();
    let set = |get: fn(&oci_spec::runtime::LinuxCapabilities) -> &Option<Capabilities>| {
        sets.and_then(|sets| get(sets).as_ref()).map_or(0, bits)
    };
    drop_bounding(set(|s| s.bounding()))?;
    syscalls::prctl(libc::PR_SET_KEEPCAPS, 1, 0).tried(|| "keep capabilities".to_owned())?;
    let mask = process.user().umask().unwrap_or(0o022);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask & 0o777));
    let groups = (!keep_groups).then_some(identity.groups.as_slice());
    syscalls::become_user(identity.uid, identity.gid, groups)
        .tried(|| format!("become user {} and group {}", identity.uid, identity.gid))?;
    syscalls::prctl(libc::PR_SET_KEEPCAPS, 0, 0).tried(|| "keep capabilities".to_owned())?;
    let permitted = set(|s| s.permitted());
    let inheritable = set(|s| s.inheritable());
    syscalls::capset(set(|s| s.effective()) & permitted, permitted, inheritable)
        .tried(|| "set the capabilities".to_owned())?;
    // One that is not permitted and inheritable cannot be ambient: capabilities(7).
    // Buildah asks for such, and runc leaves them out.
    let ambient = set(|s| s.ambient()) & permitted & inheritable;
    for bit in 0..64u64 {
        if ambient & (1 << bit) != 0 {
            syscalls::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, bit)
                .tried(|| format!("raise the ambient capability {bit}"))?;
        }
    }
    Ok(())
}

fn drop_bounding(keep: u64) -> Result<()> {
    for bit in 0..64u64 {
        // EINVAL: past the last one this kernel has.
        match syscalls::prctl(libc::PR_CAPBSET_READ, bit, 0) {
            Err(_) => return Ok(()),
            Ok(()) if keep & (1 << bit) != 0 => {}
            Ok(()) => syscalls::prctl(libc::PR_CAPBSET_DROP, bit, 0)
                .tried(|| format!("drop the capability {bit}"))?,
        }
    }
    Ok(())
}

fn bits(set: &Capabilities) -> u64 {
    set.iter()
        .fold(0, |bits, capability| bits | 1 << number(*capability))
}

/// linux/capability.h.
fn number(capability: Capability) -> u32 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}

fn resource(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

/// By the agent, through its own /proc: the container's may be missing, or
/// covered by a file of the container's making.
pub(super) fn adjust_oom_score(pid: i32, process: &Process) -> Result<()> {
    let Some(score) = process.oom_score_adj() else {
        return Ok(());
    };
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
        .tried(|| format!("set the out-of-memory score {score}"))
}

/// Refuses what is out of the kernel's range before anything is forked.
pub(super) fn check(process: &Process) -> Result<()> {
    let names: Vec<_> = process
        .rlimits()
        .iter()
        .flatten()
        .map(|limit| limit.typ())
        .collect();
    for (index, name) in names.iter().enumerate() {
        if names[..index].contains(name) {
            return Err(Error::invalid(format!("the limit {name} is set twice")));
        }
    }
    Ok(())
}

//! Users and capabilities of a process: capabilities(7).

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use rustix::process::{Gid, Uid};

use super::accounts::Identity;
use super::error::{During, Error};

/// Capability numbers, linux/capability.h: their order there.
const ORDER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

fn bits(set: Option<&Capabilities>) -> u64 {
    let has = |capability| set.is_some_and(|set| set.contains(capability));
    (0..).zip(&ORDER).filter(|(_, capability)| has(*capability)).map(|(bit, _)| 1u64 << bit).sum()
}

fn one(bit: usize) -> CapabilitySet {
    CapabilitySet::from_bits_retain(1 << bit)
}

/// Becomes `identity` with exactly these capabilities; without any given,
/// none.
pub(super) fn assume(identity: &Identity, wanted: Option<&LinuxCapabilities>) -> Result<(), Error> {
    let bounding = bits(wanted.and_then(|sets| sets.bounding().as_ref()));
    for bit in (0..ORDER.len()).filter(|bit| bounding & 1 << bit == 0) {
        match remove_capability_from_bounding_set(one(bit)) {
            // A capability this kernel does not know.
            Err(rustix::io::Errno::INVAL) => {}
            result => result.during("the bounding set could not be reduced")?,
        }
    }
    set_keep_capabilities(true).during("the capabilities could not be kept")?;
    become_user(identity)?;
    set_keep_capabilities(false).during("keeping capabilities could not be ended")?;
    let sets = CapabilitySets {
        effective: set(wanted.and_then(|sets| sets.effective().as_ref())),
        permitted: set(wanted.and_then(|sets| sets.permitted().as_ref())),
        inheritable: set(wanted.and_then(|sets| sets.inheritable().as_ref())),
    };
    set_capabilities(None, sets).during("the capabilities could not be set")?;
    clear_ambient_capability_set().during("the ambient set could not be cleared")?;
    let ambient = bits(wanted.and_then(|sets| sets.ambient().as_ref()));
    for bit in (0..ORDER.len()).filter(|bit| ambient & 1 << bit != 0) {
        configure_capability_in_ambient_set(one(bit), true)
            .during("an ambient capability could not be set: it has to be permitted and inheritable")?;
    }
    Ok(())
}

fn set(capabilities: Option<&Capabilities>) -> CapabilitySet {
    CapabilitySet::from_bits_retain(bits(capabilities))
}

fn become_user(identity: &Identity) -> Result<(), Error> {
    let groups: Vec<Gid> = identity.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let failed = || format!("the process could not become user {} group {}", identity.uid, identity.gid);
    set_thread_groups(&groups).during_with(failed)?;
    set_thread_res_gid(gid, gid, gid).during_with(failed)?;
    set_thread_res_uid(uid, uid, uid).during_with(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_the_kernels_numbers() {
        let set = Capabilities::from([Capability::Chown, Capability::SysAdmin, Capability::CheckpointRestore]);
        assert_eq!(bits(Some(&set)), 1 << 0 | 1 << 21 | 1 << 40);
        assert_eq!(bits(None), 0);
    }
}

//! Capability sets. capabilities(7).

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};
use std::str::FromStr;

use super::SpecError;

/// What an ordinary container has: containers-common's default list.
const DEFAULT: [Capability; 11] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Every capability of a current kernel.
pub(super) const ALL: [Capability; 41] = [
    Capability::AuditControl,
    Capability::AuditRead,
    Capability::AuditWrite,
    Capability::BlockSuspend,
    Capability::Bpf,
    Capability::CheckpointRestore,
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::Kill,
    Capability::Lease,
    Capability::LinuxImmutable,
    Capability::MacAdmin,
    Capability::MacOverride,
    Capability::Mknod,
    Capability::NetAdmin,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetRaw,
    Capability::Perfmon,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysChroot,
    Capability::SysModule,
    Capability::SysNice,
    Capability::SysPacct,
    Capability::SysPtrace,
    Capability::SysRawio,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Syslog,
    Capability::WakeAlarm,
];

/// The set after additions and drops; dropping wins, `ALL` means all.
pub(super) fn resolve(
    add: &[String],
    drop: &[String],
    privileged: bool,
) -> Result<Capabilities, SpecError> {
    let mut set: Capabilities = if privileged {
        ALL.into_iter().collect()
    } else {
        DEFAULT.into_iter().collect()
    };
    if is_all(drop) {
        set.clear();
    }
    if is_all(add) {
        set = ALL.into_iter().collect();
    }
    for name in add.iter().filter(|name| !name.eq_ignore_ascii_case("all")) {
        set.insert(parse("--cap-add", name)?);
    }
    for name in drop.iter().filter(|name| !name.eq_ignore_ascii_case("all")) {
        set.remove(&parse("--cap-drop", name)?);
    }
    Ok(set)
}

fn is_all(names: &[String]) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case("all"))
}

fn parse(option: &'static str, name: &str) -> Result<Capability, SpecError> {
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    Capability::from_str(plain)
        .or_else(|_| Capability::from_str(&format!("CAP_{plain}")))
        .map_err(|_| SpecError::value(option, name, "there is no such capability"))
}

/// The OCI form: ambient stays empty, so that a user other than root has
/// none unless a file gives them.
pub(super) fn sets(set: &Capabilities) -> Result<LinuxCapabilities, SpecError> {
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set.clone())
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn additions_and_drops_start_from_the_default() {
        let set = resolve(&names(&["bpf", "CAP_SYS_ADMIN"]), &names(&["kill"]), false).unwrap();
        assert!(set.contains(&Capability::Bpf) && set.contains(&Capability::SysAdmin));
        assert!(!set.contains(&Capability::Kill));
        assert_eq!(set.len(), DEFAULT.len() + 1);
    }

    #[test]
    fn all_can_be_dropped_with_some_kept_or_added_with_some_left_out() {
        let only = resolve(&names(&["chown"]), &names(&["ALL"]), false).unwrap();
        assert_eq!(only.into_iter().collect::<Vec<_>>(), [Capability::Chown]);
        let most = resolve(&names(&["all"]), &names(&["sys_time"]), false).unwrap();
        assert_eq!(most.len(), ALL.len() - 1);
    }

    #[test]
    fn an_unknown_one_is_named() {
        let text = resolve(&names(&["fly"]), &[], false)
            .unwrap_err()
            .to_string();
        assert!(text.contains("fly"), "{text}");
    }
}

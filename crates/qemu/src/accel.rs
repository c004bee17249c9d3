//! KVM or emulation: decided by running a vCPU, never by a file's existence.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use bulkhead_sys::{clock, kvm};

/// How guest code runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accelerator {
    /// On the processor.
    Kvm {
        /// Mean time of a round of privileged instructions, nanoseconds.
        round_ns: u64,
    },
    /// Emulated by QEMU's TCG.
    Tcg {
        /// Rate of the time stamp counter, kHz. The guest cannot calibrate it
        /// reliably under emulation: without being told, one boot in seven
        /// hangs.
        tsc_khz: Option<u64>,
        /// Why KVM is not used.
        reason: String,
    },
}

/// What the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// KVM where it is usable, else emulation, said aloud.
    #[default]
    Auto,
    /// KVM or an error.
    Kvm,
    /// Emulation, even where KVM works.
    Tcg,
}

impl Accelerator {
    /// Probes the host. Takes a few milliseconds.
    ///
    /// # Errors
    /// KVM was demanded and is of no use here.
    pub fn probe(choice: Choice) -> Result<Self, kvm::Unusable> {
        let reason = match choice {
            Choice::Tcg => "emulation was asked for".to_owned(),
            Choice::Auto | Choice::Kvm => match kvm::probe() {
                Ok(timing) => {
                    return Ok(Self::Kvm {
                        round_ns: timing.round_ns,
                    });
                }
                Err(unusable) if choice == Choice::Kvm => return Err(unusable),
                Err(unusable) => unusable.to_string(),
            },
        };
        Ok(Self::Tcg {
            tsc_khz: clock::tsc_khz(Duration::from_millis(5)),
            reason,
        })
    }

    /// The group a user that is not root needs to open what runs the guest.
    ///
    /// # Errors
    /// `/dev/kvm` cannot be looked at, or is only for root.
    pub(crate) fn group(&self) -> io::Result<Option<u32>> {
        match self {
            Self::Tcg { .. } => Ok(None),
            Self::Kvm { .. } => group_of(&std::fs::metadata("/dev/kvm")?),
        }
    }
}

fn group_of(device: &Metadata) -> io::Result<Option<u32>> {
    const OTHERS: u32 = 0o006;
    const GROUP: u32 = 0o060;
    let (mode, group) = (device.mode(), device.gid());
    if mode & OTHERS == OTHERS {
        Ok(None)
    } else if mode & GROUP == GROUP && group != 0 {
        Ok(Some(group))
    } else {
        Err(io::Error::other(format!(
            "its mode is {:04o} and its group {group}, and the monitor does not run as root; let \
             it be a group of its own's, as udev does: `groupadd --system kvm; chgrp kvm \
             /dev/kvm; chmod 0660 /dev/kvm`",
            mode & 0o7777
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn the_monitor_gets_the_group_of_the_device_and_never_roots() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let group = |mode, gid| {
            chown(file.path(), None, Some(gid)).unwrap();
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(file.path(), permissions).unwrap();
            group_of(&file.path().metadata().unwrap())
        };
        assert_eq!(group(0o666, 0).unwrap(), None);
        assert_eq!(group(0o660, 7).unwrap(), Some(7));
        assert!(group(0o660, 0).is_err());
        let error = group(0o600, 7).unwrap_err().to_string();
        assert!(error.contains("0600") && error.contains("chgrp"), "{error}");
    }
}

//! KVM or emulation: decided by running a vCPU, never by a file's existence.

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
}

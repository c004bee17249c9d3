//! Which monitor runs the machines. The only file that names a backend.

use bulkhead_hypervisor::Hypervisor;
use bulkhead_qemu::{Accelerator, Choice, Program, Qemu};

use crate::report::CommandError;
use crate::state::Record;

/// A monitor, and how its guests run.
pub(crate) struct Backend {
    qemu: Qemu,
    accelerator: Accelerator,
}

impl Backend {
    /// The seam.
    pub(crate) fn hypervisor(&self) -> &dyn Hypervisor {
        &self.qemu
    }

    /// "kvm", or "tcg" with the reason.
    pub(crate) fn describe(&self) -> String {
        describe(&self.accelerator)
    }
}

fn describe(accelerator: &Accelerator) -> String {
    match accelerator {
        Accelerator::Kvm { .. } => "kvm".to_owned(),
        Accelerator::Tcg { reason, .. } => format!("tcg: {reason}"),
    }
}

/// Finds the monitor for a container.
pub(crate) fn open(record: &Record) -> Result<Backend, CommandError> {
    let program = find()?;
    let accelerator = probe(&record.accel)?;
    Ok(Backend {
        qemu: Qemu::new(program, accelerator.clone()),
        accelerator,
    })
}

/// The monitor on PATH.
pub(crate) fn find() -> Result<Program, CommandError> {
    let path = std::env::var_os("PATH")
        .unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    Ok(Program::find(&path)?)
}

/// Probes the host: "auto", "kvm" or "tcg".
pub(crate) fn probe(choice: &str) -> Result<Accelerator, CommandError> {
    let choice = match choice {
        "kvm" => Choice::Kvm,
        "tcg" => Choice::Tcg,
        _ => Choice::Auto,
    };
    Ok(Accelerator::probe(choice)?)
}

/// Emulation is never silent: it is slow, and no boundary to rely on.
pub(crate) fn warn_if_emulated(record: &Record) -> Result<(), CommandError> {
    if record.accel == "tcg" {
        return Ok(());
    }
    if let Accelerator::Tcg { reason, .. } = probe(&record.accel)? {
        eprintln!(
            "{} this host has no usable KVM, so the guest is emulated: many times slower, and \
             no security boundary\n  {reason}\n  (say --accel tcg to leave this out)",
            crate::style::warning("warning:")
        );
    }
    Ok(())
}

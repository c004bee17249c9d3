//! Which monitor runs the machines. The only file that names a backend.

use bulkhead_hypervisor::Hypervisor;
pub use bulkhead_qemu::Accelerator;
use bulkhead_qemu::{Choice, Program, Qemu, Version};

use crate::Error;

/// A monitor, and how its guests run.
#[derive(Debug)]
pub struct Monitor {
    qemu: Qemu,
    accelerator: Accelerator,
}

impl Monitor {
    /// The seam.
    pub fn hypervisor(&self) -> &dyn Hypervisor {
        &self.qemu
    }

    /// "kvm", or "tcg" with the reason.
    pub fn describe(&self) -> String {
        match &self.accelerator {
            Accelerator::Kvm { .. } => "kvm".to_owned(),
            Accelerator::Tcg { reason, .. } => format!("tcg: {reason}"),
        }
    }

    /// Why guests are emulated, when they are.
    pub fn emulated(&self) -> Option<&str> {
        emulated(&self.accelerator)
    }
}

/// Finds the monitor on PATH and probes the host: "auto", "kvm" or "tcg". A
/// monitor that is too old says so when a machine is started.
///
/// # Errors
/// [`Error::Monitor`].
pub fn open(accelerator: &str) -> Result<Monitor, Error> {
    let program = find()?;
    let accelerator = probe(accelerator)?;
    Ok(Monitor {
        qemu: Qemu::new(program, accelerator.clone()),
        accelerator,
    })
}

/// The monitor on PATH, and its version: takes as long as a start of it, which
/// sees the version by itself.
///
/// # Errors
/// [`Error::Monitor`] when it is missing or too old.
pub fn ask() -> Result<(Program, Version), Error> {
    let program = find()?;
    let version = program.version()?;
    Ok((program, version))
}

fn find() -> Result<Program, Error> {
    let path = std::env::var_os("PATH")
        .unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    Ok(Program::find(&path)?)
}

/// Probes the host: "auto", "kvm" or "tcg". Takes a few milliseconds.
///
/// # Errors
/// [`Error::Monitor`] for "kvm" where it is not usable.
pub fn probe(choice: &str) -> Result<Accelerator, Error> {
    let choice = match choice {
        "kvm" => Choice::Kvm,
        "tcg" => Choice::Tcg,
        _ => Choice::Auto,
    };
    Ok(Accelerator::probe(choice)?)
}

/// Why guests are emulated, when they are.
pub fn emulated(accelerator: &Accelerator) -> Option<&str> {
    match accelerator {
        Accelerator::Kvm { .. } => None,
        Accelerator::Tcg { reason, .. } => Some(reason),
    }
}

//! The QEMU backend: one QEMU process for each sandbox.
//!
//! QEMU gets every file, socket and disk as an open descriptor, runs as a
//! user of its own in empty namespaces, and may start nothing. The machine is
//! `microvm` with virtio-mmio: the fewest devices QEMU has
//! (docs/design/0002-qemu-machine.md has the measurements). Disks that come later
//! take the place of spare ones (docs/design/0011-hotplug.md).
//!
//! ```text
//!   find ──▶ accel ── KVM or TCG ──▶ Qemu ── args ──▶ process
//!                                                        │
//!                              qmp, console, exit ◀──────┘
//! ```

mod accel;
mod args;
mod find;
mod process;
mod qmp;
mod spares;

pub use accel::{Accelerator, Choice};
pub use find::{MINIMUM_VERSION, Program, Version};

use async_trait::async_trait;
use bulkhead_hypervisor::{Capabilities, Error, Hypervisor, Vm, VmConfig};

/// The backend, probed and ready to launch machines.
#[derive(Debug)]
pub struct Qemu {
    program: Program,
    accelerator: Accelerator,
    capabilities: Capabilities,
}

impl Qemu {
    /// Takes a found program and an accelerator. A program that is too old ends
    /// the machines it starts with that reason.
    pub fn new(program: Program, accelerator: Accelerator) -> Self {
        let capabilities = Capabilities {
            backend: "qemu",
            hardware: matches!(accelerator, Accelerator::Kvm { .. }),
            shares: true,
            max_disks: args::DISK_LIMIT,
            plugs: true,
        };
        Self {
            program,
            accelerator,
            capabilities,
        }
    }
}

#[async_trait]
impl Hypervisor for Qemu {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn launch(&self, config: VmConfig) -> Result<Box<dyn Vm>, Error> {
        let process = process::Process::start(&self.program, &self.accelerator, config)?;
        Ok(Box::new(process))
    }
}

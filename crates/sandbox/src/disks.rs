//! Disks that come and go while a sandbox runs.

use std::os::fd::OwnedFd;

use bulkhead_protocol::agent::{BlockRef, GrowDiskRequest};

use crate::agent::{AgentError, context};
use crate::start::Sandbox;

/// Why a disk could not be plugged in.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The monitor.
    #[error(transparent)]
    Monitor(#[from] bulkhead_hypervisor::Error),
    /// The guest.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

fn at(serial: &str) -> BlockRef {
    BlockRef {
        serial: serial.to_owned(),
        ..Default::default()
    }
}

impl Sandbox {
    /// Plugs a file or block device in; the serial of its disk, which the guest
    /// has when this answers.
    ///
    /// # Errors
    /// [`DiskError`]; nothing is plugged in then.
    pub async fn plug(&self, file: OwnedFd, read_only: bool) -> Result<String, DiskError> {
        let serial = self.vm.plug(file, read_only).await?;
        match self.agent.take_disk(context(), &at(&serial)).await {
            Ok(_) => Ok(serial),
            Err(error) => {
                self.vm.unplug(&serial).await?;
                Err(AgentError::from(error).into())
            }
        }
    }

    /// Tells the guest that what is plugged in has so many bytes by now.
    ///
    /// # Errors
    /// When the monitor does not obey.
    pub async fn resize_disk(
        &self,
        serial: &str,
        bytes: u64,
    ) -> Result<(), bulkhead_hypervisor::Error> {
        self.vm.resize(serial, bytes).await
    }

    /// Gives the file system of a plugged disk all of what has been plugged in, which
    /// has so many bytes by now.
    ///
    /// # Errors
    /// [`DiskError`]; the disk may be larger then, and its file system not.
    pub async fn grow_disk(&self, serial: &str, bytes: u64) -> Result<(), DiskError> {
        self.resize_disk(serial, bytes).await?;
        let request = GrowDiskRequest {
            serial: serial.to_owned(),
            bytes,
            ..Default::default()
        };
        let grown = self.agent.grow_disk(context(), &request).await;
        grown
            .map(|_| ())
            .map_err(|error| AgentError::from(error).into())
    }

    /// Takes a plugged disk away. The guest is asked to write back and to forget
    /// it; whether it does or not, the host's file is closed when this answers.
    ///
    /// # Errors
    /// When the monitor does not obey.
    pub async fn unplug(&self, serial: &str) -> Result<(), bulkhead_hypervisor::Error> {
        if let Err(error) = self.agent.release_disk(context(), &at(serial)).await {
            tracing::warn!(serial, %error, "the guest did not let go of a disk");
        }
        self.vm.unplug(serial).await
    }
}

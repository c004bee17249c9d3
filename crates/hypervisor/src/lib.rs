//! The seam between a sandbox and a virtual machine monitor.
//!
//! Data and traits only: this crate names no backend and touches no kernel
//! interface. A backend turns a [`VmConfig`] into a running [`Vm`]; what it
//! cannot do is a bit in [`Capabilities`], never a method that panics.
//!
//! ```text
//!   VmConfig ──launch──▶ Vm ──┬── channel(): bytes to and from the agent
//!                             ├── console(): last lines of the guest kernel
//!                             ├── plug() / unplug(): disks, while it runs
//!                             ├── pause() / resume() / kill()
//!                             └── exited():  why it ended
//! ```

mod config;
mod console;
mod exit;

pub use config::{
    BootImage, Disk, DiskSource, Extent, MEMORY_BLOCK, NetBackend, NetDevice, ShareDevice, Spare,
    SpareDisks, VmConfig,
};
pub use console::{Console, LINE_LIMIT, LINES_KEPT};
pub use exit::ExitReason;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use async_trait::async_trait;

/// What a backend can do, and how its guests run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Name for people, "qemu".
    pub backend: &'static str,
    /// Guests run on the processor itself. When false they are emulated:
    /// many times slower, and the emulator is no security boundary its
    /// authors support.
    pub hardware: bool,
    /// Host directories can be shared with the guest.
    pub shares: bool,
    /// Disks a machine starts with at most.
    pub max_disks: usize,
    /// Disks can be plugged into running machines: [`VmConfig::spare_disks`].
    pub plugs: bool,
}

/// Why a virtual machine could not be had or be driven.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The monitor is missing or unfit; the text says what to do.
    #[error("no usable virtual machine monitor: {0}")]
    Unavailable(String),
    /// The configuration asks for more than the backend has.
    #[error("the backend `{backend}` cannot do this: {what}")]
    Unsupported {
        /// Name of the backend.
        backend: &'static str,
        /// What was asked, and the way out.
        what: String,
    },
    /// The monitor did not start.
    #[error("`{program}` did not start: {detail}")]
    Start {
        /// Program that was run.
        program: String,
        /// Its last words, or the step that failed.
        detail: String,
        /// The operating system's reason, where it gave one.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The monitor's control connection failed.
    #[error("the monitor did not answer `{command}`: {detail}")]
    Control {
        /// Command that was sent.
        command: String,
        /// What came back.
        detail: String,
    },
}

/// Makes virtual machines.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// What this backend can do on this host. Costs nothing: the probing was
    /// done when the backend was made.
    fn capabilities(&self) -> &Capabilities;

    /// Starts a machine and returns as soon as its monitor runs; the guest
    /// boots on its own. Dropping the [`Vm`] kills it.
    ///
    /// # Errors
    /// [`Error`]; nothing of the machine is left then.
    async fn launch(&self, config: VmConfig) -> Result<Box<dyn Vm>, Error>;
}

/// A running machine. Dropping it kills the monitor.
#[async_trait]
pub trait Vm: Send + Sync {
    /// Pid of the monitor on the host.
    fn pid(&self) -> u32;

    /// The byte channel to the agent. Given out once; `None` afterwards.
    fn channel(&mut self) -> Option<UnixStream>;

    /// The guest console's last lines.
    fn console(&self) -> Console;

    /// Answers when the monitor has given up what of its host it needed only to
    /// start. No code of a container may run before. May be asked any number of
    /// times.
    ///
    /// # Errors
    /// [`Error::Start`] when that failed; the machine has to be killed.
    async fn enclosed(&self) -> Result<(), Error>;

    /// Stops the vCPUs.
    ///
    /// # Errors
    /// [`Error::Control`] when the monitor does not obey.
    async fn pause(&self) -> Result<(), Error>;

    /// Lets the vCPUs run again.
    ///
    /// # Errors
    /// [`Error::Control`] when the monitor does not obey.
    async fn resume(&self) -> Result<(), Error>;

    /// Puts a file or block device where one of the machine's
    /// [`VmConfig::spare_disks`] is; the serial the guest finds that disk by. The
    /// guest's driver sees the disk's new size when it looks at it anew.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when no spare disk is left; [`Error::Control`] when
    /// the monitor does not obey. The file is closed then.
    async fn plug(&self, file: OwnedFd, read_only: bool) -> Result<String, Error>;

    /// Takes a plugged disk away: when this answers, the monitor has closed its
    /// file, whatever the guest does; what the guest still asks of the disk is an
    /// error there. A disk nothing is plugged into is no error.
    ///
    /// # Errors
    /// [`Error::Control`] when the monitor does not obey.
    async fn unplug(&self, serial: &str) -> Result<(), Error>;

    /// Tells the guest that what is plugged in as this disk has so many bytes by now.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when nothing is plugged in there; [`Error::Control`] when
    /// the monitor does not obey.
    async fn resize(&self, serial: &str, bytes: u64) -> Result<(), Error>;

    /// Ends the monitor at once. Idempotent; [`Vm::exited`] tells when it is
    /// gone.
    fn kill(&self);

    /// Answers when the monitor has ended and was reaped, with the reason.
    /// May be asked any number of times.
    async fn exited(&self) -> ExitReason;
}

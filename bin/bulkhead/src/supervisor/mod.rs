//! The process behind each container: it owns the virtual machine, carries
//! its output, hears commands, and writes down what became of it.
//!
//! ```text
//!   boot ──▶ create ──▶ wait for Start ──▶ run ──▶ end
//!     │         │              │             │       │
//!     └─────────┴── failure ───┴─────────────┴───────┴──▶ state.json: exited
//! ```
//!
//! One thread: the helpers it starts die with it (PR_SET_PDEATHSIG), so a
//! killed supervisor leaves no process.

mod boot;
mod life;
pub(crate) mod log;
mod network;
pub(crate) mod ports;
mod serve;
mod stdio;
mod uplink;
mod volumes;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::state::{ContainerDir, Root};

/// What the creator hands over.
#[derive(Debug)]
pub(crate) struct Inheritance {
    /// Where everything is.
    pub(crate) root: PathBuf,
    /// The container's directory.
    pub(crate) dir: PathBuf,
    /// Its lock, held.
    pub(crate) lock: OwnedFd,
    /// The creator's connection.
    pub(crate) creator: OwnedFd,
}

/// Runs a container from its first moment to its last.
pub(crate) fn main(inheritance: Inheritance) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::from(125);
        }
    };
    let Inheritance {
        root,
        dir,
        lock,
        creator,
    } = inheritance;
    let outcome = runtime.block_on(async {
        let root = Root::open(&root)?;
        life::run(&root, &ContainerDir::at(dir), creator).await
    });
    // Everything is written: whoever waits for the lock may look.
    drop(lock);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %crate::report::chain(&error), "the supervisor failed");
            ExitCode::from(125)
        }
    }
}

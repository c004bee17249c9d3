//! Restarts by systemd, which a machine without it is told about.

pub use bulkhead_systemd::Systemd;
use bulkhead_systemd::SystemdError;

use crate::runtime::Runtime;
use crate::seams::{Reason, Supervisor};

/// Why the container runtime was not restarted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestartError {
    /// Nobody to ask.
    #[error(
        "there is no systemd to restart the container runtime; where something else runs it, \
         give --restart-with or --no-restart"
    )]
    NoSystemd(#[source] SystemdError),
    /// It did not.
    #[error("{runtime} was not restarted")]
    Failed {
        /// Which runtime.
        runtime: Runtime,
        /// Why not.
        #[source]
        source: SystemdError,
    },
    /// The kernel gives no event queue.
    #[error("no event queue")]
    Queue(#[source] std::io::Error),
}

impl Supervisor for Systemd {
    fn restart(&mut self, runtime: Runtime) -> Result<(), Reason> {
        if runtime.units().is_empty() {
            return Ok(());
        }
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(RestartError::Queue)?;
        let asked = tokio.block_on(self.restart_any(runtime.units()));
        asked.map_err(|source| {
            Reason::from(match source {
                SystemdError::Connect { .. } => RestartError::NoSystemd(source),
                source => RestartError::Failed { runtime, source },
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_systemd_the_ways_out_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let error = Systemd::of(dir.path()).restart(Runtime::Crio).unwrap_err();
        assert!(error.to_string().contains("--restart-with"), "{error}");
        // k0s needs none.
        Systemd::of(dir.path()).restart(Runtime::K0s).unwrap();
    }
}

//! Why a machine ended.

use std::fmt;

/// Why a monitor ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReason {
    /// The guest powered off or reset; after a request to shut down this is
    /// the good end, else the guest kernel panicked or its init died.
    GuestStopped,
    /// [`crate::Vm::kill`] was called.
    KilledByUs,
    /// A signal from elsewhere ended the monitor.
    Signal(i32),
    /// The monitor gave up.
    Failed {
        /// Its exit code.
        code: i32,
        /// The end of its standard error.
        message: String,
    },
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GuestStopped => f.write_str("the guest stopped"),
            Self::KilledByUs => f.write_str("the virtual machine was ended by its supervisor"),
            Self::Signal(9) => f.write_str(
                "the virtual machine monitor was killed by signal 9 \
                 (by somebody, or by the host running out of memory)",
            ),
            Self::Signal(number) => {
                write!(
                    f,
                    "the virtual machine monitor was ended by signal {number}"
                )
            }
            Self::Failed { code, message } => {
                write!(
                    f,
                    "the virtual machine monitor failed with code {code}: {message}"
                )
            }
        }
    }
}

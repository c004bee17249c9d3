//! Why a container or process could not be had.

use rustix::io::Errno;

/// What kind of failure, for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ErrorKind {
    /// The command does not exist.
    NotFound = 1,
    /// The command cannot be executed.
    NotExecutable = 2,
    /// The spec asks for what cannot be.
    Invalid = 3,
    /// The guest failed.
    Other = 4,
}

impl ErrorKind {
    pub(super) fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::NotFound,
            2 => Self::NotExecutable,
            3 => Self::Invalid,
            _ => Self::Other,
        }
    }
}

/// A failure: what was tried, and the kernel's answer.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Error {
    kind: ErrorKind,
    text: String,
}

/// What everything here returns.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(super) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }

    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, text)
    }

    pub(super) fn other(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Other, text)
    }

    /// What kind it is.
    pub(crate) fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// Says what was tried when the kernel refuses.
pub(super) trait Tried<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Tried<T> for std::result::Result<T, Errno> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| {
            let error: std::io::Error = errno.into();
            Error::other(format!("{}: {error}", what()))
        })
    }
}

impl<T> Tried<T> for std::io::Result<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::other(format!("{}: {error}", what())))
    }
}

//! How errors reach people: the chain once, at the top, and an exit code.

use std::error::Error;
use std::process::ExitCode;

pub(crate) use bulkhead_provision::chain;

use bulkhead_control::Failure;

/// A failed command.
#[derive(Debug)]
pub(crate) struct CommandError {
    code: u8,
    text: String,
}

impl CommandError {
    /// A failure of Bulkhead itself: exit code 125, as Podman's.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            code: 125,
            text: text.into(),
        }
    }

    /// With an exit code of its own.
    pub(crate) fn with_code(code: u8, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    /// What went wrong.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Prints it and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.text.is_empty() {
            eprintln!("{} {}", crate::style::error("error:"), self.text);
        }
        ExitCode::from(self.code)
    }
}

impl<E: Error + 'static> From<E> for CommandError {
    fn from(error: E) -> Self {
        let error: &dyn Error = &error;
        match error.downcast_ref::<Failure>() {
            Some(failure) => Self::with_code(
                u8::try_from(failure.exit_code).unwrap_or(125),
                failure.text.clone(),
            ),
            None => Self::new(chain(error)),
        }
    }
}

/// What every command returns.
pub(crate) type Outcome = Result<ExitCode, CommandError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_its_exit_code() {
        let failure = Failure {
            exit_code: 127,
            text: "no such file".into(),
        };
        assert_eq!(CommandError::from(failure).code, 127);
        assert_eq!(CommandError::from(std::io::Error::other("x")).code, 125);
    }
}

//! What went wrong, and which status containerd is told.

use bulkhead_sandbox::AgentError;
use ttrpc::Code;

/// A refused or failed call.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    code: Code,
    text: String,
}

impl From<bulkhead_bundle::Refusal> for Failure {
    fn from(refusal: bulkhead_bundle::Refusal) -> Self {
        Self::invalid(refusal.to_string())
    }
}

/// What every call returns.
pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    fn new(code: Code, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    /// The request or the spec asks for what cannot be.
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(Code::INVALID_ARGUMENT, text)
    }

    /// Not at this moment of its life.
    pub(crate) fn state(text: impl Into<String>) -> Self {
        Self::new(Code::FAILED_PRECONDITION, text)
    }

    /// There is nothing of this name.
    pub(crate) fn missing(text: impl Into<String>) -> Self {
        Self::new(Code::NOT_FOUND, text)
    }

    /// Is it that there is nothing of this name?
    pub(crate) fn is_missing(&self) -> bool {
        self.code == Code::NOT_FOUND
    }

    /// The name is taken.
    pub(crate) fn exists(text: impl Into<String>) -> Self {
        Self::new(Code::ALREADY_EXISTS, text)
    }

    /// A call that a virtual machine cannot serve.
    pub(crate) fn unimplemented(text: impl Into<String>) -> Self {
        Self::new(Code::UNIMPLEMENTED, text)
    }

    /// The host or the guest failed.
    pub(crate) fn internal(text: impl Into<String>) -> Self {
        Self::new(Code::INTERNAL, text)
    }

    /// The sandbox is gone.
    pub(crate) fn gone(text: impl Into<String>) -> Self {
        Self::new(Code::UNAVAILABLE, text)
    }

    /// An error of the host with its causes.
    pub(crate) fn from_error(error: &dyn std::error::Error) -> Self {
        Self::internal(bulkhead_provision::chain(error))
    }
}

impl From<AgentError> for Failure {
    fn from(error: AgentError) -> Self {
        let text = error.to_string();
        match error {
            // A command that cannot be executed; "not found" would tell
            // containerd that the container is not there.
            AgentError::NotFound(_) | AgentError::NotExecutable(_) | AgentError::Invalid(_) => {
                Self::invalid(text)
            }
            AgentError::NotRunning(_) => Self::missing(text),
            AgentError::Exists(_) => Self::exists(text),
            AgentError::Gone(_) => Self::gone(text),
            AgentError::Failed(_) => Self::internal(text),
        }
    }
}

impl From<Failure> for ttrpc::Error {
    fn from(failure: Failure) -> Self {
        Self::RpcStatus(ttrpc::get_status(failure.code, failure.text))
    }
}

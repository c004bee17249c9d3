//! Errors on the wire: a ttrpc code that says what kind, a text that says it
//! all. The host turns NOT_FOUND and PERMISSION_DENIED of a start into the
//! exit codes 127 and 126.

use ttrpc::Code;

use crate::container;

/// A failed call.
#[derive(Debug)]
pub(super) struct Failure {
    code: Code,
    text: String,
}

/// The failure as a call's result.
pub(super) fn failed<T>(failure: Failure) -> ttrpc::Result<T> {
    Err(ttrpc::Error::RpcStatus(ttrpc::get_status(
        failure.code,
        failure.text,
    )))
}

impl Failure {
    fn new(code: Code, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    pub(super) fn invalid(error: impl std::error::Error + 'static) -> Self {
        Self::new(Code::INVALID_ARGUMENT, crate::chain(&error))
    }

    pub(super) fn invalid_text(text: String) -> Self {
        Self::new(Code::INVALID_ARGUMENT, text)
    }

    pub(super) fn internal(text: &str) -> Self {
        Self::new(Code::INTERNAL, text)
    }

    pub(super) fn internal_from(error: impl std::error::Error + 'static) -> Self {
        Self::new(Code::INTERNAL, crate::chain(&error))
    }

    pub(super) fn exists(name: &str) -> Self {
        Self::new(Code::ALREADY_EXISTS, format!("`{name}` exists already"))
    }

    pub(super) fn no_container(id: &str) -> Self {
        Self::new(
            Code::FAILED_PRECONDITION,
            format!("the sandbox holds no container `{id}`"),
        )
    }

    pub(super) fn no_process(id: &str, exec: &str) -> Self {
        let text = if exec.is_empty() {
            format!("the container `{id}` is not running")
        } else {
            format!("the container `{id}` runs no exec `{exec}`")
        };
        Self::new(Code::FAILED_PRECONDITION, text)
    }

    pub(super) fn version(major: u32) -> Self {
        Self::new(
            Code::UNIMPLEMENTED,
            format!(
                "the host speaks protocol {major}, this agent {}",
                super::VERSION.0
            ),
        )
    }

    #[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
    pub(super) fn container(error: container::Error) -> Self {
        let code = match error.kind() {
            container::ErrorKind::NotFound => Code::NOT_FOUND,
            container::ErrorKind::NotExecutable => Code::PERMISSION_DENIED,
            container::ErrorKind::Invalid => Code::INVALID_ARGUMENT,
            container::ErrorKind::Other => Code::INTERNAL,
        };
        Self::new(code, crate::chain(&error))
    }
}

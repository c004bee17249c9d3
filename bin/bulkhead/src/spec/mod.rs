//! From what a user said and what an image says to an OCI runtime spec.
//!
//! Two steps: [`options`] holds words as typed, parsed one by one
//! ([`values`]); [`resolve`] turns them into what they mean. No file is read
//! here but those the user names (`--env-file`, a seccomp profile).

mod capabilities;
mod defaults;
mod environment;
mod exec;
mod mounts;
mod options;
mod resolve;
mod values;

pub(crate) use exec::{ExecRequest, exec_process};
pub(crate) use options::ContainerOptions;
pub(crate) use resolve::{Resolved, resolve};
pub(crate) use values::ByteSize;

/// What is wrong with what was said.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    /// A value breaks its option's rules.
    #[error("`{option} {value}`: {problem}")]
    Value {
        option: &'static str,
        value: String,
        problem: String,
    },
    /// The image names no command and neither did the user.
    #[error("the image names no command; write one behind its name")]
    NoCommand,
    /// A file the user named.
    #[error("could not read `{path}`")]
    File {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Asked for what a sandbox does not have.
    #[error("{0}")]
    Refused(String),
    /// The spec could not be put together.
    #[error("the container's specification is inconsistent")]
    Build(#[from] oci_spec::OciSpecError),
}

impl SpecError {
    fn value(option: &'static str, value: &str, problem: impl Into<String>) -> Self {
        Self::Value {
            option,
            value: value.to_owned(),
            problem: problem.into(),
        }
    }
}

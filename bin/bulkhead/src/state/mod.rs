//! What is known about containers, on disk.
//!
//! ```text
//!   ROOT/containers/<id>/record.json   what was asked; written once
//!                        state.json    what became of it; replaced whole
//!                        lock          held by the supervisor while it lives
//!                        control.sock  the supervisor's ear
//!                        log           output of the container
//!   ROOT/lock                          held while a container is made or removed
//!   ROOT/events.jsonl                  what happened, one line each
//! ```
//!
//! The lock file tells the truth whatever was killed: a state that says
//! "running" with a free lock is a dead container, and whoever finds it so
//! writes down what happened ([`dir::ContainerDir::state`]).

pub(crate) mod dir;
pub(crate) mod events;
pub(crate) mod file;
pub(crate) mod id;
pub(crate) mod record;
pub(crate) mod root;

pub(crate) use dir::ContainerDir;
pub(crate) use record::{Record, State, Status};
pub(crate) use root::Root;

use std::path::PathBuf;

/// What went wrong with the state on disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// A file operation failed.
    #[error("could not {what} `{path}`")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("`{path}` is damaged; `bulkhead rm --force` removes the container")]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// Nobody by that name.
    #[error("there is no container `{0}`; `bulkhead ps --all` lists them")]
    NoContainer(String),
    /// More than one id starts so.
    #[error("`{0}` fits more than one container; write more of the id")]
    Ambiguous(String),
    /// The name is taken.
    #[error(
        "the name `{name}` is in use by the container `{id}`; remove it with `bulkhead rm {name}` or choose another name"
    )]
    NameTaken { name: String, id: String },
    /// The name breaks the rules.
    #[error(transparent)]
    Name(#[from] bulkhead_protocol::name::NameError),
    /// It runs.
    #[error("the container `{0}` is running; stop it first, or use --force")]
    Running(String),
    /// It does not run.
    #[error("the container `{0}` is not running")]
    NotRunning(String),
}

impl StateError {
    /// For `map_err`.
    pub(crate) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}

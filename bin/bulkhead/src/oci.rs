//! The command line of an OCI runtime, as Podman, CRI-O and people with a bundle call
//! it: the verbs of the OCI runtime spec, with the options runc has.
//!
//! ```text
//!   create ─▶ place, bundle ─▶ executes itself as the stand-in, and waits for its word
//!                stand_in ─▶ executes the shim, which holds the machine
//!                         ─▶ has the container made, joins its group, enters its files
//!                         ─▶ waits for its end, and ends with its exit code
//!   start, kill, pause, update ─▶ shim (Task API)
//!   exec   ─▶ a stand-in of its own
//!   delete ─▶ ends the stand-in, takes away what is left
//! ```
//!
//! Whoever calls an OCI runtime waits for a process of the host. The container's are
//! the guest's, so that one stands for it: docs/design/0016-oci.md.

mod bundle;
mod console;
mod container;
mod create;
mod exec;
mod machine;
mod place;
mod shim;
pub(crate) mod stand_in;
mod stdio;
mod verbs;
mod view;

pub(crate) use create::{Creation, create};
pub(crate) use exec::{Execution, exec};
use place::Place;
pub(crate) use place::exists;
pub(crate) use verbs::{delete, features, host_processes, kill, list, pause, start, state, update};

use std::path::PathBuf;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("`{id}` is no id of a container: {why}")]
    Id { id: String, why: String },
    #[error("there is no container `{0}`; `bulkhead list` shows those of this runtime")]
    NoContainer(String),
    #[error("the container `{0}` exists; delete it first, or take another id")]
    Exists(String),
    #[error("the container `{id}` is {status}: {wanted}")]
    Status {
        id: String,
        status: &'static str,
        wanted: &'static str,
    },
    #[error("cannot {what} `{}`", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{}` is not what it should be", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// What a bundle asks for and cannot have.
    #[error("{0}")]
    Refused(String),
    #[error("the process that stands for the container cannot {what}")]
    Host {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("`{}` could not be executed; it belongs beside this program", path.display())]
    NoShim {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// What the shim, or the process that stands for a container, answers.
    #[error("{0}")]
    Answer(String),
}

impl Error {
    /// Of a file: what was tried, and where.
    fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    fn host(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}

/// Whoever talks to a shim does one thing at a time.
fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::host("begin"))
}

//! `bulkhead cluster`: executes `kubectl-bulkhead`, so that this program, which
//! also supervises each container, carries no client of Kubernetes.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::report::Outcome;

const PROGRAM: &str = "kubectl-bulkhead";

/// Why the program does not run.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(
        "`{PROGRAM}` is neither beside this program nor on PATH; put it there, or build it with \
         `cargo build --release -p {PROGRAM}`"
    )]
    NotFound,
    #[error("`{}` cannot be executed", path.display())]
    Execute {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Becomes the program; returns only when it cannot.
pub(super) fn run(arguments: &[OsString]) -> Outcome {
    let path = found().ok_or(Error::NotFound)?;
    let source = Command::new(&path).args(arguments).exec();
    Err(Error::Execute { path, source }.into())
}

fn found() -> Option<PathBuf> {
    let own = std::env::current_exe().ok();
    let beside = own.and_then(|own| Some(own.parent()?.join(PROGRAM)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(PROGRAM));
    beside
        .into_iter()
        .chain(on_path)
        .find(|file| file.is_file())
}

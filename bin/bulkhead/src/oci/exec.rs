//! `exec --process`: a further process, as an OCI runtime's callers tell of it.

use std::path::PathBuf;
use std::process::ExitCode;

use super::bundle::read_json;
use super::create::write_pid;
use super::shim::Shim;
use super::stand_in::{self, LOST, Wanted};
use super::stdio::Stdio;
use super::{Error, Place, console, runtime};
use crate::state::id;

/// What a caller of `exec` says.
#[derive(Debug)]
pub(crate) struct Execution {
    pub(crate) id: String,
    /// OCI's `process`, as a file.
    pub(crate) process: PathBuf,
    pub(crate) terminal: bool,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) console_socket: Option<PathBuf>,
    /// The caller waits for the process itself.
    pub(crate) detach: bool,
}

/// Runs it.
pub(crate) fn exec(wanted: &Execution) -> Result<ExitCode, Error> {
    let place = Place::living(&wanted.id, "a process can be added to one that runs")?;
    let mut spec = read_json(&wanted.process)?;
    let terminal = wanted.terminal || spec["terminal"] == true;
    if let Some(spec) = spec.as_object_mut() {
        spec.insert("terminal".to_owned(), terminal.into());
    }
    let console = wanted.console_socket.as_deref().map(console::open);
    let console = console.transpose()?;
    let exec = format!("exec-{}", id::random().map_err(Error::host("be named"))?);
    let runtime = runtime()?;
    let shim = runtime.block_on(Shim::connect(&place))?;
    let stdio = Stdio::open(&place, &exec, terminal)?;
    let begun = async {
        let spec = spec.to_string().into_bytes();
        shim.exec(&exec, spec, stdio.paths.clone(), terminal)
            .await?;
        let begun = shim.begin(&exec).await;
        if begun.is_err() {
            let _ = shim.delete(&exec).await;
        }
        begun
    };
    runtime.block_on(begun)?;
    let (owner, held) = std::io::pipe().map_err(Error::host("begin"))?;
    Shim::own(&place, &exec, &owner.into())?;
    let (near, made) = stdio.split();
    let child = stand_in::start(Wanted {
        id: place.id(),
        exec: &exec,
        machine: None,
        told: 0,
        near,
        has_terminal: terminal,
        terminal: console,
        held: vec![held.into()],
    });
    drop(made);
    let mut child = child?;
    let told = write_pid(wanted.pid_file.as_deref(), child.id());
    told.inspect_err(|_| stand_in::end(&mut child))?;
    if wanted.detach {
        return Ok(ExitCode::SUCCESS);
    }
    let ended = child.wait().map_err(Error::host("be waited for"))?;
    let code = ended.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(LOST)))
}

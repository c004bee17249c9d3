//! A further process in a running container: like its first, but for what the
//! user says.

use std::path::PathBuf;

use oci_spec::runtime::Process;

use super::environment::Environment;
use super::{SpecError, capabilities};

/// What `exec` was told.
#[derive(Debug)]
pub(crate) struct ExecRequest {
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) workdir: Option<PathBuf>,
    pub(crate) terminal: bool,
    pub(crate) privileged: bool,
}

/// The process to run, beside the container's `first`.
pub(crate) fn exec_process(
    first: &Process,
    request: &ExecRequest,
    caller: &dyn Fn(&str) -> Option<String>,
) -> Result<Process, SpecError> {
    let mut process = first.clone();
    let mut environment = Environment::default();
    for line in process.env().iter().flatten() {
        environment.add(line, &|_| None);
    }
    if request.terminal {
        environment.set_default("TERM", "xterm");
    }
    for text in &request.env {
        environment.add(text, caller);
    }
    process.set_env(Some(environment.into_list()));
    process.set_args(Some(request.command.clone()));
    process.set_terminal(Some(request.terminal));
    if let Some(dir) = &request.workdir {
        process.set_cwd(dir.clone());
    }
    if request.privileged {
        let all = capabilities::resolve(&["all".to_owned()], &[], true)?;
        process.set_capabilities(Some(capabilities::sets(&all)?));
        process.set_no_new_privileges(Some(false));
    }
    Ok(process)
}

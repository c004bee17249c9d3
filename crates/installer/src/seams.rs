//! What an installation needs of others: a program that checks the runtime's
//! configuration, one that restarts it, and a pod to try.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::config::Place;
use crate::handler::HandlerName;
use crate::runtime::Runtime;
use crate::tree::Tree;

/// Most bytes of a program's complaint that are passed on.
const COMPLAINT_LIMIT: usize = 2000;

/// Any reason, to be shown with its chain.
pub type Reason = Box<dyn std::error::Error + Send + Sync>;

/// Whoever runs the container runtime.
pub trait Supervisor {
    /// Restarts it and returns when it is up again as far as the supervisor
    /// can tell.
    ///
    /// # Errors
    /// Why it is not.
    fn restart(&mut self, runtime: Runtime) -> Result<(), Reason>;
}

/// A pod that is run through the runtime and removed.
pub trait Smoke {
    /// Tries a handler.
    ///
    /// # Errors
    /// Why no pod ran.
    fn run(&mut self, handler: &HandlerName) -> Result<(), Reason>;
}

/// What reads the runtime's configuration as the runtime does.
pub trait Validator {
    /// The names of all runtime handlers in it; `None` when it cannot tell.
    ///
    /// # Errors
    /// Why the runtime would not start with it.
    fn handlers(&mut self, tree: &Tree, place: &Place) -> Result<Option<Vec<String>>, Reason>;
}

/// Restarts by a program of the administrator's, which gets the runtime's
/// name and returns when it is up.
#[derive(Debug)]
pub struct Script(
    /// The program.
    pub PathBuf,
);

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// It could not be run.
    #[error("`{}` cannot be run", program.display())]
    Run {
        /// Which.
        program: PathBuf,
        /// What the kernel says.
        #[source]
        source: std::io::Error,
    },
    /// It failed.
    #[error("`{}` ended with {status}: {said}", program.display())]
    Failed {
        /// Which.
        program: PathBuf,
        /// How.
        status: std::process::ExitStatus,
        /// The end of its standard error.
        said: String,
    },
    /// It printed something else than a configuration.
    #[error("`{}` printed no configuration", program.display())]
    Output {
        /// Which.
        program: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Reason,
    },
}

pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>, ProgramError> {
    let program = || PathBuf::from(command.get_program());
    let program = program();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|source| ProgramError::Run {
        program: program.clone(),
        source,
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.trim().chars().take(COMPLAINT_LIMIT).collect();
    Err(ProgramError::Failed {
        program,
        status: output.status,
        said,
    })
}

impl Supervisor for Script {
    fn restart(&mut self, runtime: Runtime) -> Result<(), Reason> {
        output(Command::new(&self.0).arg(runtime.word()))?;
        Ok(())
    }
}

/// Leaves the restart to the administrator.
#[derive(Debug)]
pub struct NoRestart;

impl Supervisor for NoRestart {
    fn restart(&mut self, _: Runtime) -> Result<(), Reason> {
        Ok(())
    }
}

/// What checks the configuration of a runtime: the program that was given, or
/// else the runtime's own on PATH. Below another root than `/` there is no PATH
/// to ask.
#[must_use]
pub fn validator(given: Option<&Path>, runtime: Runtime, root: &Path) -> Box<dyn Validator> {
    let on_path = || {
        let name = runtime.program().filter(|_| root == Path::new("/"))?;
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
    };
    match given.map(Path::to_owned).or_else(on_path) {
        Some(program) => Box::new(OwnProgram(program)),
        None => Box::new(NoValidator),
    }
}

/// The runtime's own program: `containerd config dump`, `crio config`.
#[derive(Debug)]
pub struct OwnProgram(
    /// The program.
    pub PathBuf,
);

impl Validator for OwnProgram {
    fn handlers(&mut self, tree: &Tree, place: &Place) -> Result<Option<Vec<String>>, Reason> {
        let mut command = Command::new(&self.0);
        if place.runtime == Runtime::Crio {
            let dir = place.path.parent().unwrap_or(&place.path);
            command
                .arg("--config-dir")
                .arg(tree.outside(dir))
                .arg("config");
        } else {
            command
                .arg("--config")
                .arg(tree.outside(&place.main))
                .args(["config", "dump"]);
        }
        let printed = output(&mut command)?;
        let wrong = |source: Reason| ProgramError::Output {
            program: self.0.clone(),
            source,
        };
        let text = String::from_utf8(printed).map_err(|error| wrong(error.into()))?;
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| wrong(error.into()))?;
        Ok(Some(place.handlers_in(&table)))
    }
}

/// Where no program of the runtime's can be run.
#[derive(Debug)]
pub struct NoValidator;

impl Validator for NoValidator {
    fn handlers(&mut self, _: &Tree, _: &Place) -> Result<Option<Vec<String>>, Reason> {
        Ok(None)
    }
}

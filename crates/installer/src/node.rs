//! A machine something is installed on: its files, its lock, and those who
//! help.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::config::ConfigError;
use crate::handler::{HandlerError, HandlerName};
use crate::in_use::{self, User};
use crate::payload::PayloadError;
use crate::places;
use crate::runtime::Runtime;
use crate::seams::{Reason, Smoke, Supervisor, Validator};
use crate::state::{State, StateError};
use crate::tree::{FileError, Tree};
use crate::version::{ManifestError, Version};

/// A point between two changes to the machine, for progress and for tests
/// that stop there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The journal exists.
    Journal,
    /// A version is copied, not yet in its place.
    Staged,
    /// The version is in its place.
    Placed,
    /// A handler's settings are written.
    Settings,
    /// The link is switched.
    Linked,
    /// The runtime's configuration is written.
    Configured,
    /// The runtime's own program took the configuration.
    Validated,
    /// The runtime is about to be restarted.
    Restarting,
    /// It was.
    Restarted,
    /// Every handler ran a pod.
    Tried,
    /// Old versions nobody uses are gone.
    Collected,
    /// What is to be undone, is.
    Undone,
    /// Our part of the runtime's configuration is out.
    Unconfigured,
    /// Our directory has its last name.
    Renamed,
}

/// Why a machine is not as it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The payload.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The runtime's configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The journal.
    #[error(transparent)]
    State(#[from] StateError),
    /// An installed version's manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The handlers asked for.
    #[error(transparent)]
    Handler(#[from] HandlerError),
    /// The runtime does not take the configuration.
    #[error("{runtime} does not take `{}`", path.display())]
    Invalid {
        /// Whose.
        runtime: Runtime,
        /// What was written.
        path: PathBuf,
        /// What it says.
        #[source]
        source: Reason,
    },
    /// With our file, the runtime's configuration would lack handlers.
    #[error(
        "with `{}` {runtime} would have the handlers {now}, and it has to have {wanted}: its \
         version merges imported files differently; report this with `containerd --version`",
        path.display()
    )]
    Merge {
        /// Whose.
        runtime: Runtime,
        /// What was written.
        path: PathBuf,
        /// Handlers there would be.
        now: String,
        /// Handlers there have to be.
        wanted: String,
    },
    /// No restart.
    #[error("{runtime} could not be restarted")]
    Restart {
        /// Which.
        runtime: Runtime,
        /// Why.
        #[source]
        source: Reason,
    },
    /// No pod.
    #[error("a pod of the handler `{handler}` does not run")]
    Smoke {
        /// Which.
        handler: HandlerName,
        /// Why.
        #[source]
        source: Reason,
    },
    /// A change failed and what was before is back.
    #[error("nothing was changed: {}", back(.version.as_ref(), *.restarted))]
    RolledBack {
        /// What is in use again.
        version: Option<Version>,
        /// Whether the runtime was restarted for it.
        restarted: bool,
        /// What failed.
        #[source]
        source: Box<Error>,
    },
    /// A change failed, and so did undoing it.
    #[error(
        "the change failed ({}), and it could not be undone; mend the cause and run `bulkhead \
         node install` or `uninstall` again, which finish the undoing",
        chain(.cause.as_ref())
    )]
    Stuck {
        /// What failed first.
        cause: Box<Error>,
        /// What failed of the undoing.
        #[source]
        source: Box<Error>,
    },
    /// Pods run.
    #[error("pods run what would be removed, as processes {}; end them first", list(.0))]
    InUse(Vec<User>),
    /// Somebody stopped it here.
    #[error("stopped at {0:?}")]
    Stopped(Step),
}

/// An error with its causes, in one line, joined by colons.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

fn back(version: Option<&Version>, restarted: bool) -> String {
    let again = if restarted {
        ", and the runtime was restarted again"
    } else {
        ""
    };
    match version {
        Some(version) => format!("version {version} is in use again{again}"),
        None => format!("the machine is as it was before{again}"),
    }
}

fn list(users: &[User]) -> String {
    const SHOWN: usize = 20;
    let mut words: Vec<String> = users.iter().take(SHOWN).map(User::to_string).collect();
    if users.len() > SHOWN {
        words.push(format!("{} more", users.len() - SHOWN));
    }
    words.join(", ")
}

/// A machine, and those who help.
pub struct Node<'a> {
    /// Its files.
    pub tree: Tree,
    /// Where its processes are, `/proc`.
    pub proc: PathBuf,
    /// Who restarts its runtime.
    pub supervisor: &'a mut dyn Supervisor,
    /// Who checks the runtime's configuration.
    pub validator: &'a mut dyn Validator,
    /// Who tries pods; `None` for no trial.
    pub smoke: Option<&'a mut dyn Smoke>,
    /// How long the processes of pods that were removed may take to end before what
    /// they run is taken away.
    pub ending: Duration,
    /// Is told of each step, and may stop there as a kill would.
    pub observer: &'a mut dyn FnMut(Step) -> std::ops::ControlFlow<()>,
}

impl std::fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("tree", &self.tree)
            .finish_non_exhaustive()
    }
}

/// The node's lock. Whoever holds it is the only one who changes something.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "holds the lock")] std::fs::File);

impl Node<'_> {
    pub(crate) fn step(&mut self, step: Step) -> Result<(), Error> {
        match (self.observer)(step) {
            std::ops::ControlFlow::Continue(()) => Ok(()),
            std::ops::ControlFlow::Break(()) => Err(Error::Stopped(step)),
        }
    }

    /// Waits for others and takes the lock.
    pub(crate) fn lock(&self) -> Result<Lock, Error> {
        let path = Path::new(places::LOCK);
        let failed = |source: std::io::Error| FileError {
            path: path.to_owned(),
            what: "locked",
            source,
        };
        self.tree.make_dirs(path.parent().unwrap_or(path))?;
        loop {
            let file = self.tree.open_lock(path)?;
            rustix::fs::flock(&file, FlockOperation::LockExclusive)
                .map_err(|errno| failed(errno.into()))?;
            // Who held it before may have removed it.
            let own = file.metadata().map_err(failed)?;
            let there = self
                .tree
                .open_file(path)?
                .map(|file| file.metadata())
                .transpose();
            let there = there.map_err(failed)?;
            if there.is_some_and(|there| there.dev() == own.dev() && there.ino() == own.ino()) {
                return Ok(Lock(file));
            }
        }
    }

    /// Gives the lock back, without a trace; but not where a test stopped.
    pub(crate) fn unlock<T>(&self, lock: Lock, result: Result<T, Error>) -> Result<T, Error> {
        if !matches!(result, Err(Error::Stopped(_))) {
            self.tree.remove(Path::new(places::LOCK))?;
        }
        drop(lock);
        result
    }

    pub(crate) fn restart(&mut self, runtime: Runtime) -> Result<(), Error> {
        self.supervisor
            .restart(runtime)
            .map_err(|source| Error::Restart { runtime, source })
    }

    /// Undoes a change that was killed.
    pub(crate) fn undo_killed(&mut self, state: &mut State, runtime: Runtime) -> Result<(), Error> {
        // Its version may have been given to pods since.
        if state.installed.is_none() {
            let users = self.lasting(|node| node.users_of(&state.added()))?;
            if !users.is_empty() {
                return Err(Error::InUse(users));
            }
        }
        self.undo(state, runtime).map(drop)
    }

    /// Those of the processes found that do not end within what is granted them.
    pub(crate) fn lasting(
        &self,
        find: impl Fn(&Self) -> Result<Vec<User>, Error>,
    ) -> Result<Vec<User>, Error> {
        let users = find(self)?;
        if users.is_empty() {
            return Ok(users);
        }
        in_use::wait(&users, self.ending);
        find(self)
    }

    fn users_of(&self, versions: &[Version]) -> Result<Vec<User>, Error> {
        let mut found = Vec::new();
        for version in versions {
            found.extend(in_use::users(&self.tree, &self.proc, version)?);
        }
        Ok(found)
    }

    /// Undoes a change; returns whether the runtime was restarted for it. A
    /// version that processes run stays until none does.
    pub(crate) fn undo(&mut self, state: &mut State, runtime: Runtime) -> Result<bool, Error> {
        if state.undo.is_none() {
            return Ok(false);
        }
        let mut kept = state.added();
        if state.installed.is_none() || self.users_of(&kept)?.is_empty() {
            kept.clear();
        }
        state.undo_all(&self.tree, &kept)?;
        self.step(Step::Undone)?;
        let restart = state.restarted;
        if restart {
            self.restart(runtime)?;
        }
        if state.installed.is_none() {
            self.remove_home(state)?;
        } else {
            state.settle(&self.tree)?;
        }
        Ok(restart)
    }

    /// Takes away our directory and those that were made for it.
    pub(crate) fn remove_home(&mut self, state: &State) -> Result<(), Error> {
        let home = Path::new(places::HOME);
        let leaving = Path::new(places::LEAVING);
        if self.tree.kind(home)?.is_some() {
            self.tree.rename(home, leaving, false)?;
        }
        self.step(Step::Renamed)?;
        self.tree.remove_tree(leaving)?;
        for dir in state.made_dirs.iter().rev() {
            self.tree.remove_empty_dir(dir)?;
        }
        Ok(())
    }
}

//! Taking everything away again.

use std::path::Path;

use serde::Serialize;

use crate::config;
use crate::in_use::{self, User};
use crate::node::{Error, Node, Step};
use crate::places;
use crate::state::{State, sweep};
use crate::tree::FileError;
use crate::version::Version;

/// What an uninstallation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removal {
    /// Whether there was something to remove.
    pub removed: bool,
    /// Processes that run programs that are gone now (only with `force`).
    pub orphaned: Vec<User>,
}

impl Node<'_> {
    /// Removes everything of ours and restarts the runtime. `force` does so
    /// while pods run.
    ///
    /// # Errors
    /// [`Error::InUse`] with nothing changed; others with the removal half
    /// done, which the next call finishes.
    pub fn uninstall(&mut self, force: bool) -> Result<Removal, Error> {
        let lock = self.lock()?;
        let result = self.uninstall_alone(force);
        self.unlock(lock, result)
    }

    fn uninstall_alone(&mut self, force: bool) -> Result<Removal, Error> {
        sweep(&self.tree)?;
        let mut removal = Removal {
            removed: false,
            orphaned: Vec::new(),
        };
        if let Some(mut state) = State::read(&self.tree)? {
            removal.removed = true;
            if let Some(runtime) = state.runtime {
                self.undo_killed(&mut state, runtime)?;
            }
            removal.orphaned = match force {
                true => self.users()?,
                false => self.lasting(|node| Ok(node.users()?))?,
            };
            if !force && !removal.orphaned.is_empty() && !state.leaving {
                return Err(Error::InUse(removal.orphaned));
            }
            if State::read(&self.tree)?.is_some() {
                self.leave(&mut state)?;
            }
        }
        Ok(removal)
    }

    /// Processes that run a program of any version.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn users(&self) -> Result<Vec<User>, FileError> {
        let mut found = Vec::new();
        for name in self
            .tree
            .list(Path::new(places::VERSIONS))?
            .unwrap_or_default()
        {
            if let Ok(version) = Version::try_from(name) {
                found.extend(in_use::users(&self.tree, &self.proc, &version)?);
            }
        }
        Ok(found)
    }

    /// Every step can be done twice, so a killed one is just done again.
    pub(crate) fn leave(&mut self, state: &mut State) -> Result<(), Error> {
        state.leaving = true;
        state.write(&self.tree)?;
        self.step(Step::Journal)?;
        if let Some(installed) = state.installed.clone() {
            self.unconfigure_for_good(state)?;
            self.step(Step::Unconfigured)?;
            self.restart(installed.place.runtime)?;
            self.step(Step::Restarted)?;
        }
        self.remove_home(state)
    }

    fn unconfigure_for_good(&mut self, state: &State) -> Result<(), Error> {
        let Some(installed) = &state.installed else {
            return Ok(());
        };
        let path = &installed.place.path;
        let Some((now, content)) = config::read(&self.tree, path)? else {
            return Ok(());
        };
        match installed.place.take_out(&now, installed.was_there)? {
            None => self.tree.remove(path)?,
            Some(rest) if rest == now => (),
            Some(rest) => self.tree.write(path, rest.as_bytes(), content.meta)?,
        }
        Ok(())
    }
}

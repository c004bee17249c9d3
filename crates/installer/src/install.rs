//! Installing, and changing what is installed.

use std::path::{Path, PathBuf};

use bulkhead_guest::Sha256;
use serde::Serialize;

use crate::config::{self, Place};
use crate::handler::{self, Handler};
use crate::in_use;
use crate::node::{Error, Node, Step, chain};
use crate::payload::Payload;
use crate::places;
use crate::runtime::Runtime;
use crate::state::{Before, Installed, State, Undo, readable, sweep};
use crate::tree::Meta;
use crate::version::{Manifest, Version};

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The handlers, all of them: one that is installed and not here goes.
    pub handlers: Vec<Handler>,
    /// Where the runtime's configuration takes them.
    pub place: Place,
}

/// What an installation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The version new pods get.
    pub version: Version,
    /// The one they got before, kept for pods and for going back.
    pub previous: Option<Version>,
    /// Whether anything on the machine is other than before.
    pub changed: bool,
    /// Whether the runtime was restarted.
    pub restarted: bool,
    /// Handlers that ran a pod.
    pub tried: Vec<String>,
    /// Old versions that were removed.
    pub collected: Vec<Version>,
    /// Old versions that stay because processes run them.
    pub kept: Vec<Version>,
    /// Why old versions could not be removed.
    pub uncollected: Option<String>,
}

impl Node<'_> {
    /// Makes the machine have a payload's version under the wished handlers.
    ///
    /// # Errors
    /// [`Error::RolledBack`] with the machine as it was before;
    /// [`Error::Stuck`]; others before anything was changed.
    pub fn install(&mut self, payload: &mut Payload, wish: &Wish) -> Result<Report, Error> {
        handler::check_names(&wish.handlers)?;
        let lock = self.lock()?;
        let result = self.install_alone(payload, wish);
        self.unlock(lock, result)
    }

    fn install_alone(&mut self, payload: &mut Payload, wish: &Wish) -> Result<Report, Error> {
        sweep(&self.tree)?;
        self.finish(wish.place.runtime)?;
        // Refused before anything is written.
        self.rendered(wish, &payload.manifest().version)?;
        let mut state = State::read_or_make(&self.tree)?;
        self.step(Step::Journal)?;
        state.undo = Some(Vec::new());
        state.runtime = Some(wish.place.runtime);
        let changed = self.change(&mut state, payload, wish);
        let mut report = match changed {
            Ok(report) => report,
            // As after a kill: whoever comes next undoes it.
            Err(stopped @ Error::Stopped(_)) => return Err(stopped),
            Err(cause) => return Err(self.roll_back(&mut state, wish, cause)),
        };
        // The installation is complete, whatever becomes of old versions.
        if let Err(error) = self.collect(&state, &mut report) {
            report.uncollected = Some(chain(&error));
        }
        self.step(Step::Collected)?;
        Ok(report)
    }

    /// Finishes what a killed one began, so that the machine is in one state.
    pub(crate) fn finish(&mut self, runtime: Runtime) -> Result<(), Error> {
        let Some(mut state) = State::read(&self.tree)? else {
            return Ok(());
        };
        let runtime = state.runtime.unwrap_or(runtime);
        self.undo_killed(&mut state, runtime)?;
        if State::read(&self.tree)?.is_some_and(|state| state.leaving) {
            self.leave(&mut state)?;
        } else if state.installed.is_none() {
            self.remove_home(&state)?;
        }
        Ok(())
    }

    fn roll_back(&mut self, state: &mut State, wish: &Wish, cause: Error) -> Error {
        let version = state
            .installed
            .as_ref()
            .map(|installed| installed.version.clone());
        match self.undo(state, wish.place.runtime) {
            Ok(restarted) => Error::RolledBack {
                version,
                restarted,
                source: cause.into(),
            },
            Err(source) => Error::Stuck {
                cause: cause.into(),
                source: source.into(),
            },
        }
    }

    fn change(
        &mut self,
        state: &mut State,
        payload: &mut Payload,
        wish: &Wish,
    ) -> Result<Report, Error> {
        let version = payload.manifest().version.clone();
        let before = self.handlers_before(state, wish)?;
        let mut changed = self.add_version(state, payload)?;
        changed |= self.write_settings(state, wish, &version)?;
        self.step(Step::Settings)?;
        changed |= self.link(state, &version)?;
        self.step(Step::Linked)?;
        let (configured, was_there) = self.configure(state, wish, &version)?;
        self.step(Step::Configured)?;
        self.validate(wish, &before)?;
        self.step(Step::Validated)?;
        if configured {
            state.restarted = true;
            state.write(&self.tree)?;
            self.step(Step::Restarting)?;
            self.restart(wish.place.runtime)?;
            self.step(Step::Restarted)?;
        }
        let tried = self.try_handlers(wish)?;
        self.step(Step::Tried)?;
        let installed = Installed {
            version: version.clone(),
            handlers: wish.handlers.clone(),
            place: wish.place.clone(),
            was_there,
        };
        changed |= configured || state.installed.as_ref() != Some(&installed);
        // Only what is on the disk counts: a failed write is rolled back.
        let mut next = state.clone();
        keep_made_dirs(&mut next);
        if let Some(old) = next.installed.replace(installed)
            && old.version != version
        {
            next.previous = Some(old.version);
        }
        next.settle(&self.tree)?;
        *state = next;
        Ok(Report {
            version,
            previous: state.previous.clone(),
            changed,
            restarted: configured,
            tried,
            collected: Vec::new(),
            kept: Vec::new(),
            uncollected: None,
        })
    }

    /// The handlers the runtime has without those that are ours: it must have
    /// them afterwards, too.
    fn handlers_before(&mut self, state: &State, wish: &Wish) -> Result<Vec<String>, Error> {
        let main = config::read(&self.tree, &wish.place.main)?;
        if main.is_none() {
            return Ok(Vec::new());
        }
        let found = self.validator.handlers(&self.tree, &wish.place);
        let found = found.map_err(|source| Error::Invalid {
            runtime: wish.place.runtime,
            path: wish.place.main.clone(),
            source,
        })?;
        let old = state
            .installed
            .as_ref()
            .map_or(&[][..], |installed| &installed.handlers);
        let ours = |name: &String| old.iter().any(|handler| handler.name.as_str() == name);
        Ok(found
            .unwrap_or_default()
            .into_iter()
            .filter(|name| !ours(name))
            .collect())
    }

    fn add_version(&mut self, state: &mut State, payload: &mut Payload) -> Result<bool, Error> {
        let version = payload.manifest().version.clone();
        let place = places::version(&version);
        let exists = self.tree.kind(&place)?.is_some();
        if exists && self.is_whole(payload.manifest())? {
            self.step(Step::Staged)?;
            self.step(Step::Placed)?;
            return Ok(false);
        }
        let stage = Path::new(places::STAGE);
        self.tree.remove_tree(stage)?;
        if !exists {
            state.intend(&self.tree, Undo::Version(version))?;
        }
        payload.copy_to(&self.tree, stage)?;
        self.step(Step::Staged)?;
        self.tree.make_dirs(Path::new(places::VERSIONS))?;
        // A damaged one is swapped for a good one: those who run it keep what
        // they have open.
        self.tree.rename(stage, &place, exists)?;
        self.tree.remove_tree(stage)?;
        self.step(Step::Placed)?;
        Ok(true)
    }

    fn is_whole(&self, manifest: &Manifest) -> Result<bool, Error> {
        let read = Manifest::read(&self.tree, &manifest.version);
        let same = read.is_ok_and(|read| read == *manifest);
        Ok(same && manifest.drift(&self.tree)?.is_empty())
    }

    fn write_settings(
        &mut self,
        state: &mut State,
        wish: &Wish,
        version: &Version,
    ) -> Result<bool, Error> {
        let dir = places::handlers(version);
        self.tree.make_dirs(&dir)?;
        let mut changed = false;
        let handlers = wish.handlers.iter();
        let wanted = handlers.flat_map(|own| own.files(version, wish.place.runtime));
        let wanted: Vec<_> = wanted.collect();
        for (path, text, mode) in &wanted {
            changed |= self.write_as(state, path, Some(text), Some(*mode))?;
        }
        for name in self.tree.list(&dir)?.unwrap_or_default() {
            let path = dir.join(name);
            if !wanted.iter().any(|(own, ..)| *own == path) {
                changed |= self.write(state, &path, None)?;
            }
        }
        Ok(changed)
    }

    /// Writes or removes a file, if that changes it, with its old contents in
    /// the journal first.
    pub(crate) fn write(
        &mut self,
        state: &mut State,
        path: &Path,
        text: Option<&str>,
    ) -> Result<bool, Error> {
        self.write_as(state, path, text, None)
    }

    /// The same, of a file that has to have a mode.
    fn write_as(
        &mut self,
        state: &mut State,
        path: &Path,
        text: Option<&str>,
        mode: Option<u32>,
    ) -> Result<bool, Error> {
        let now = config::read(&self.tree, path)?;
        let had = now.as_ref().map(|(_, content)| content.meta);
        let fits = |meta: Meta| mode.is_none_or(|mode| mode == meta.mode);
        if now.as_ref().map(|(now, _)| now.as_str()) == text && had.is_none_or(fits) {
            return Ok(false);
        }
        let mut meta = had.unwrap_or_else(readable);
        meta.mode = mode.unwrap_or(meta.mode);
        let before = now.map(|(text, content)| Before {
            text,
            meta: content.meta,
        });
        let after = Sha256::of(text.unwrap_or_default().as_bytes());
        state.intend(
            &self.tree,
            Undo::File {
                path: path.to_owned(),
                before,
                after,
            },
        )?;
        match text {
            Some(text) => self.tree.write(path, text.as_bytes(), meta)?,
            None => self.tree.remove(path)?,
        }
        Ok(true)
    }

    fn link(&mut self, state: &mut State, version: &Version) -> Result<bool, Error> {
        let path = PathBuf::from(places::CURRENT);
        let target = Path::new("versions").join(version.as_str());
        let before = self.tree.link(&path)?;
        if before.as_ref() == Some(&target) {
            return Ok(false);
        }
        state.intend(
            &self.tree,
            Undo::Link {
                path: path.clone(),
                before,
            },
        )?;
        self.tree.set_link(&path, &target)?;
        Ok(true)
    }

    /// What the runtime's file has to be.
    fn rendered(&self, wish: &Wish, version: &Version) -> Result<String, Error> {
        let now = config::read(&self.tree, &wish.place.path)?.map(|(text, _)| text);
        Ok(wish.place.render(now.as_deref(), &wish.handlers, version)?)
    }

    /// Returns whether something changed, and whether the file was there
    /// before there was anything of ours.
    fn configure(
        &mut self,
        state: &mut State,
        wish: &Wish,
        version: &Version,
    ) -> Result<(bool, bool), Error> {
        let mut changed = false;
        let old = state.installed.clone();
        let moved = old.as_ref().filter(|old| old.place.path != wish.place.path);
        if let Some(old) = moved {
            changed |= self.unconfigure(state, old)?;
        }
        let path = &wish.place.path;
        let dirs = self.tree.missing_dirs(path.parent().unwrap_or(path))?;
        if let Some(last) = dirs.last().cloned() {
            state.intend(&self.tree, Undo::Dirs(dirs))?;
            self.tree.make_dirs(&last)?;
        }
        let was_there = match old.filter(|old| old.place.path == *path) {
            Some(old) => old.was_there,
            None => self.tree.kind(path)?.is_some(),
        };
        let text = self.rendered(wish, version)?;
        changed |= self.write(state, path, Some(&text))?;
        Ok((changed, was_there))
    }

    /// Takes our part out of an installation's file.
    pub(crate) fn unconfigure(
        &mut self,
        state: &mut State,
        old: &Installed,
    ) -> Result<bool, Error> {
        let Some((now, _)) = config::read(&self.tree, &old.place.path)? else {
            return Ok(false);
        };
        let rest = old.place.take_out(&now, old.was_there)?;
        self.write(state, &old.place.path, rest.as_deref())
    }

    fn validate(&mut self, wish: &Wish, before: &[String]) -> Result<(), Error> {
        let place = &wish.place;
        let found = self.validator.handlers(&self.tree, place);
        let found = found.map_err(|source| Error::Invalid {
            runtime: place.runtime,
            path: place.path.clone(),
            source,
        })?;
        let Some(found) = found else {
            return Ok(());
        };
        let mut wanted = before.to_vec();
        wanted.extend(wish.handlers.iter().map(|handler| handler.name.to_string()));
        if wanted.iter().all(|name| found.contains(name)) {
            return Ok(());
        }
        Err(Error::Merge {
            runtime: place.runtime,
            path: place.path.clone(),
            now: found.join(", "),
            wanted: wanted.join(", "),
        })
    }

    pub(crate) fn try_handlers(&mut self, wish: &Wish) -> Result<Vec<String>, Error> {
        let Some(smoke) = &mut self.smoke else {
            return Ok(Vec::new());
        };
        let mut tried = Vec::new();
        for handler in &wish.handlers {
            let name = &handler.name;
            let result = smoke.run(name);
            result.map_err(|source| Error::Smoke {
                handler: name.clone(),
                source,
            })?;
            tried.push(name.to_string());
        }
        Ok(tried)
    }

    /// Removes versions that are neither in use nor next to be.
    fn collect(&self, state: &State, report: &mut Report) -> Result<(), Error> {
        let current = state.installed.as_ref().map(|installed| &installed.version);
        for name in self
            .tree
            .list(Path::new(places::VERSIONS))?
            .unwrap_or_default()
        {
            let Ok(version) = Version::try_from(name) else {
                continue;
            };
            if current == Some(&version) || state.previous.as_ref() == Some(&version) {
                continue;
            }
            if in_use::users(&self.tree, &self.proc, &version)?.is_empty() {
                // Out of its place first: what a kill leaves is no version.
                let stage = Path::new(places::STAGE);
                self.tree.rename(&places::version(&version), stage, false)?;
                self.tree.remove_tree(&places::handlers(&version))?;
                self.tree.remove_tree(stage)?;
                report.collected.push(version);
            } else {
                report.kept.push(version);
            }
        }
        Ok(())
    }
}

/// Directories made by steps that are done now go when everything does.
fn keep_made_dirs(state: &mut State) {
    for step in state.undo.iter().flatten() {
        if let Undo::Dirs(dirs) = step {
            state.made_dirs.extend(dirs.iter().cloned());
        }
    }
}

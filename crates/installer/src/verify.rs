//! Comparing the machine with what was installed.

use std::path::Path;

use serde::Serialize;

use crate::install::Wish;
use crate::node::{Error, Node};
use crate::places;
use crate::state::State;
use crate::tree::Tree;
use crate::version::{Manifest, Version};
use crate::{config, runtime};

/// The result of a verification, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing is installed.
    Absent,
    /// A change was interrupted; `install` or `uninstall` finishes it.
    Unfinished,
    /// Files differ from what was installed.
    Drifted,
    /// The runtime's configuration lacks our handlers, or is not taken.
    Unconfigured,
    /// A handler runs no pod.
    Failing,
    /// As installed.
    Good,
}

/// What a verification saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// In one word.
    pub verdict: Verdict,
    /// What new pods get.
    pub version: Option<Version>,
    /// What is not as it should be, in sentences.
    pub findings: Vec<String>,
    /// Handlers that ran a pod.
    pub tried: Vec<String>,
}

/// What is installed, without a look at its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// What new pods get.
    pub version: Option<Version>,
    /// What they got before.
    pub previous: Option<Version>,
    /// All versions that are there.
    pub versions: Vec<VersionStatus>,
    /// The names pods ask for.
    pub handlers: Vec<String>,
    /// Whose configuration has them.
    pub runtime: Option<runtime::Runtime>,
    /// In which file.
    pub config: Option<std::path::PathBuf>,
    /// A change was interrupted.
    pub unfinished: bool,
}

/// One version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionStatus {
    /// Which.
    pub version: Version,
    /// Processes that run it.
    pub users: Vec<crate::in_use::User>,
}

impl Node<'_> {
    /// Compares files, link and configuration with what was installed, and
    /// tries every handler when there is somebody to.
    ///
    /// # Errors
    /// [`Error`] when something cannot be looked at.
    pub fn verify(&mut self) -> Result<Verification, Error> {
        let mut seen = Verification {
            verdict: Verdict::Absent,
            version: None,
            findings: Vec::new(),
            tried: Vec::new(),
        };
        let Some(state) = State::read(&self.tree)? else {
            return Ok(seen);
        };
        if state.undo.is_some() || state.leaving {
            seen.verdict = Verdict::Unfinished;
            return Ok(seen);
        }
        let Some(installed) = &state.installed else {
            return Ok(seen);
        };
        seen.version = Some(installed.version.clone());
        let wish = Wish {
            handlers: installed.handlers.clone(),
            place: installed.place.clone(),
        };
        seen.findings = drift(&self.tree, &installed.version, &wish)?;
        if !seen.findings.is_empty() {
            seen.verdict = Verdict::Drifted;
            return Ok(seen);
        }
        if let Some(problem) = self.unconfigured(&wish, &installed.version)? {
            seen.findings.push(problem);
            seen.verdict = Verdict::Unconfigured;
            return Ok(seen);
        }
        match self.try_handlers(&wish) {
            Ok(tried) => (seen.tried, seen.verdict) = (tried, Verdict::Good),
            Err(error) => {
                seen.findings.push(crate::node::chain(&error));
                seen.verdict = Verdict::Failing;
            }
        }
        Ok(seen)
    }

    /// What is wrong with the runtime's configuration.
    fn unconfigured(&mut self, wish: &Wish, version: &Version) -> Result<Option<String>, Error> {
        let path = &wish.place.path;
        let now = config::read(&self.tree, path)?.map(|(text, _)| text);
        let wanted = wish.place.render(now.as_deref(), &wish.handlers, version);
        match wanted {
            Err(error) => return Ok(Some(crate::node::chain(&error))),
            Ok(wanted) if Some(&wanted) != now.as_ref() => {
                return Ok(Some(format!("`{}` is not as installed", path.display())));
            }
            Ok(_) => (),
        }
        let found = match self.validator.handlers(&self.tree, &wish.place) {
            Ok(found) => found,
            Err(error) => return Ok(Some(crate::node::chain(error.as_ref()))),
        };
        let missing = |name: &str| {
            found
                .as_ref()
                .is_some_and(|found| !found.iter().any(|f| f == name))
        };
        let lost = wish
            .handlers
            .iter()
            .find(|handler| missing(handler.name.as_str()));
        Ok(lost.map(|handler| {
            let runtime = wish.place.runtime;
            format!(
                "the configuration {runtime} reads has no handler `{}`",
                handler.name
            )
        }))
    }

    /// What is installed.
    ///
    /// # Errors
    /// [`Error`] when something cannot be looked at.
    pub fn status(&self) -> Result<Status, Error> {
        let state = State::read(&self.tree)?;
        let mut versions = Vec::new();
        for name in self
            .tree
            .list(Path::new(places::VERSIONS))?
            .unwrap_or_default()
        {
            if let Ok(version) = Version::try_from(name) {
                let users = crate::in_use::users(&self.tree, &self.proc, &version)?;
                versions.push(VersionStatus { version, users });
            }
        }
        let installed = state.as_ref().and_then(|state| state.installed.as_ref());
        let names = installed.map(|installed| &installed.handlers);
        Ok(Status {
            version: installed.map(|installed| installed.version.clone()),
            previous: state.as_ref().and_then(|state| state.previous.clone()),
            versions,
            handlers: names
                .into_iter()
                .flatten()
                .map(|h| h.name.to_string())
                .collect(),
            runtime: installed.map(|installed| installed.place.runtime),
            config: installed.map(|installed| installed.place.path.clone()),
            unfinished: state.is_some_and(|state| state.undo.is_some() || state.leaving),
        })
    }
}

fn drift(tree: &Tree, version: &Version, wish: &Wish) -> Result<Vec<String>, Error> {
    let mut found = match Manifest::read(tree, version) {
        Ok(manifest) => manifest.drift(tree)?,
        Err(error) => vec![crate::node::chain(&error)],
    };
    let target = Path::new("versions").join(version.as_str());
    if tree.link(Path::new(places::CURRENT))? != Some(target) {
        found.push(format!("`{}` does not point to {version}", places::CURRENT));
    }
    let handlers = wish.handlers.iter();
    for (path, text, mode) in handlers.flat_map(|own| own.files(version, wish.place.runtime)) {
        let now = config::read(tree, &path)?;
        if now.is_none_or(|(now, content)| now != text || content.meta.mode != mode) {
            found.push(format!("`{}` is not as installed", path.display()));
        }
    }
    Ok(found)
}

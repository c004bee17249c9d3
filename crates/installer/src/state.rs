//! The journal: what is installed, what is being done, and how to undo it.
//!
//! Every step is written down before it is done, and undoing one that was not
//! done changes nothing; so whoever comes after a kill undoes the list and
//! has the machine as it was.

use std::path::{Path, PathBuf};

use bulkhead_guest::Sha256;
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use crate::block;
use crate::config::Place;
use crate::handler::Handler;
use crate::places;
use crate::runtime::Runtime;
use crate::tree::{FileError, Meta, Tree};
use crate::version::Version;

/// The format this program writes and reads.
const FORMAT: u32 = 1;

/// Largest journal read, bytes: some configurations are in it.
const SIZE_LIMIT: u64 = 8 << 20;

/// Everything that is known about the installation on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    format: u32,
    /// What new pods get; `None` until a first installation is complete.
    pub(crate) installed: Option<Installed>,
    /// What new pods got before.
    pub(crate) previous: Option<Version>,
    /// Directories that were made, outermost first.
    pub(crate) made_dirs: Vec<PathBuf>,
    /// Steps of a change that is not complete; the last is undone first.
    pub(crate) undo: Option<Vec<Undo>>,
    /// Whose configuration the undo list undoes.
    pub(crate) runtime: Option<Runtime>,
    /// The runtime has read, or may have read, what the undo list undoes.
    pub(crate) restarted: bool,
    /// An uninstallation has begun.
    pub(crate) leaving: bool,
}

/// A complete installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Installed {
    /// Which version.
    pub(crate) version: Version,
    /// Under which names.
    pub(crate) handlers: Vec<Handler>,
    /// The file of the runtime's configuration.
    pub(crate) place: Place,
    /// Whether that file was there before the first installation.
    pub(crate) was_there: bool,
}

/// How a step is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(crate) enum Undo {
    /// A file was written: what it was before, and the digest of what was
    /// written.
    File {
        path: PathBuf,
        before: Option<Before>,
        after: Sha256,
    },
    /// The link was switched: where it pointed.
    Link {
        path: PathBuf,
        before: Option<PathBuf>,
    },
    /// A version was added.
    Version(Version),
    /// Directories were made.
    Dirs(Vec<PathBuf>),
}

/// A file before a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Before {
    pub(crate) text: String,
    pub(crate) meta: Meta,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// It could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not this program's.
    #[error(
        "`{}` is damaged or of another release; use that release, or remove `{}` and our part of \
         the runtime's configuration by hand",
        places::STATE,
        places::HOME
    )]
    Damaged(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Something else is where ours has to be.
    #[error(
        "`{}` exists and is not ours (it has no state.json): move it away",
        places::HOME
    )]
    NotOurs,
}

impl State {
    fn new(made_dirs: Vec<PathBuf>) -> Self {
        Self {
            format: FORMAT,
            installed: None,
            previous: None,
            made_dirs,
            undo: None,
            runtime: None,
            restarted: false,
            leaving: false,
        }
    }

    /// The machine's; `None` when nothing was ever installed.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) fn read(tree: &Tree) -> Result<Option<Self>, StateError> {
        let Some(content) = tree.read(Path::new(places::STATE), SIZE_LIMIT)? else {
            return match tree.kind(Path::new(places::HOME))? {
                None => Ok(None),
                Some(_) => Err(StateError::NotOurs),
            };
        };
        let state: Self = serde_json::from_slice(&content.bytes)
            .map_err(|error| StateError::Damaged(error.into()))?;
        if state.format != FORMAT {
            let text = format!("its format is {}", state.format);
            return Err(StateError::Damaged(text.into()));
        }
        Ok(Some(state))
    }

    /// The machine's, or an empty one together with its directory: both
    /// appear in one step.
    pub(crate) fn read_or_make(tree: &Tree) -> Result<Self, StateError> {
        if let Some(state) = Self::read(tree)? {
            return Ok(state);
        }
        let missing = tree.missing_dirs(Path::new(places::HOME))?;
        let outermost = missing.first().ok_or(StateError::NotOurs)?.clone();
        let state = Self::new(missing);
        let fresh = fresh_name(&outermost);
        let made = state.make(tree, &fresh, &outermost);
        if made.is_err() {
            let _ = tree.remove_tree(&fresh);
        }
        made.map(|()| state)
    }

    /// `outermost` is made as `fresh` and renamed with all that is in it.
    fn make(&self, tree: &Tree, fresh: &Path, outermost: &Path) -> Result<(), StateError> {
        tree.remove_tree(fresh)?;
        let inner = Path::new(places::HOME).strip_prefix(outermost);
        let home = inner.map_or_else(|_| fresh.to_owned(), |inner| fresh.join(inner));
        let home: PathBuf = home.components().collect();
        tree.make_dirs(&home)?;
        tree.write(&home.join("state.json"), &self.to_bytes(), root_only())?;
        tree.sync_dir(&home)?;
        Ok(tree.rename(fresh, outermost, false)?)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    pub(crate) fn write(&self, tree: &Tree) -> Result<(), StateError> {
        Ok(tree.write(Path::new(places::STATE), &self.to_bytes(), root_only())?)
    }

    /// Writes down how to undo what is about to be done.
    pub(crate) fn intend(&mut self, tree: &Tree, undo: Undo) -> Result<(), StateError> {
        self.undo.get_or_insert_default().push(undo);
        self.write(tree)
    }

    /// Undoes an incomplete change, whether it failed or was killed. The list
    /// stays until [`State::settle`]: undoing twice does no harm, and a full
    /// disk may have no room for another list.
    /// Versions in `kept` are not removed.
    pub(crate) fn undo_all(&self, tree: &Tree, kept: &[Version]) -> Result<(), StateError> {
        tree.remove_tree(Path::new(places::STAGE))?;
        for step in self.undo.iter().flatten().rev() {
            let stays = matches!(step, Undo::Version(version) if kept.contains(version));
            if !stays {
                undo(tree, step)?;
            }
        }
        Ok(())
    }

    /// Versions that undoing would remove.
    pub(crate) fn added(&self) -> Vec<Version> {
        let steps = self.undo.iter().flatten();
        let added = steps.filter_map(|step| match step {
            Undo::Version(version) => Some(version.clone()),
            _ => None,
        });
        added.collect()
    }

    /// Ends a change: nothing is to be undone any more.
    pub(crate) fn settle(&mut self, tree: &Tree) -> Result<(), StateError> {
        self.undo = None;
        self.restarted = false;
        self.write(tree)
    }
}

fn root_only() -> Meta {
    Meta {
        mode: 0o600,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    }
}

/// A new file of ours that others may read.
pub(crate) fn readable() -> Meta {
    Meta {
        mode: 0o644,
        ..root_only()
    }
}

/// What a directory is called until it is complete.
fn fresh_name(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!(".{name}.bulkhead-new"))
}

/// Removes what a killed first installation, or a killed removal, left.
pub(crate) fn sweep(tree: &Tree) -> Result<(), FileError> {
    for dir in Path::new(places::HOME)
        .ancestors()
        .filter(|dir| dir.parent().is_some())
    {
        tree.remove_tree(&fresh_name(dir))?;
    }
    tree.remove_tree(Path::new(places::LEAVING))?;
    tree.remove_tree(Path::new(places::STAGE))
}

fn undo(tree: &Tree, step: &Undo) -> Result<(), FileError> {
    match step {
        Undo::File {
            path, before: None, ..
        } => tree.remove(path),
        Undo::File {
            path,
            before: Some(before),
            after,
        } => undo_file(tree, path, before, after),
        Undo::Link { path, before: None } => tree.remove(path),
        Undo::Link {
            path,
            before: Some(target),
        } => tree.set_link(path, target),
        Undo::Version(version) => {
            tree.remove_tree(&places::handlers(version))?;
            tree.remove_tree(&places::version(version))
        }
        Undo::Dirs(dirs) => {
            for dir in dirs.iter().rev() {
                if tree.kind(dir)? == Some(FileType::Directory) {
                    tree.remove_empty_dir(dir)?;
                }
            }
            Ok(())
        }
    }
}

/// The file as it was; where somebody wrote to it since, only our part of it.
fn undo_file(tree: &Tree, path: &Path, before: &Before, after: &Sha256) -> Result<(), FileError> {
    let now = tree.read(path, SIZE_LIMIT)?;
    let (old, meta) = (before.text.as_str(), before.meta);
    let Some(now) = now.filter(|now| Sha256::of(&now.bytes) != *after) else {
        return tree.write(path, old.as_bytes(), meta);
    };
    if now.bytes == old.as_bytes() {
        return Ok(());
    }
    let merged = std::str::from_utf8(&now.bytes)
        .ok()
        .and_then(|now| block::swap(now, old));
    tree.write(path, merged.as_deref().unwrap_or(old).as_bytes(), now.meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        (dir, tree)
    }

    #[test]
    fn the_directory_and_its_journal_appear_together() {
        for existing in ["", "opt"] {
            let (dir, tree) = tree();
            std::fs::create_dir_all(dir.path().join(existing)).unwrap();
            let state = State::read_or_make(&tree).unwrap();
            let made = if existing.is_empty() { 2 } else { 1 };
            assert_eq!(state.made_dirs.len(), made);
            assert_eq!(State::read(&tree).unwrap().unwrap(), state);
            let names = tree.list(Path::new("/")).unwrap().unwrap();
            assert_eq!(names, ["opt"]);
            assert_eq!(tree.list(Path::new("/opt")).unwrap().unwrap(), ["bulkhead"]);
        }
    }

    #[test]
    fn somebody_elses_directory_is_left_alone() {
        let (dir, tree) = tree();
        std::fs::create_dir_all(dir.path().join("opt/bulkhead")).unwrap();
        assert!(matches!(
            State::read_or_make(&tree),
            Err(StateError::NotOurs)
        ));
        std::fs::write(dir.path().join("opt/bulkhead/state.json"), "{}").unwrap();
        assert!(matches!(State::read(&tree), Err(StateError::Damaged(_))));
    }

    #[test]
    fn steps_are_undone_backwards_whether_or_not_they_were_done() {
        let (dir, tree) = tree();
        let mut state = State::read_or_make(&tree).unwrap();
        let file = PathBuf::from("/etc/new/file");
        let dirs = vec!["/etc".into(), "/etc/new".into()];
        state.intend(&tree, Undo::Dirs(dirs)).unwrap();
        tree.make_dirs(Path::new("/etc/new")).unwrap();
        state
            .intend(
                &tree,
                Undo::File {
                    path: file.clone(),
                    before: None,
                    after: Sha256::of(b"new"),
                },
            )
            .unwrap();
        let before = Before {
            text: "old".into(),
            meta: readable(),
        };
        tree.write(&file, b"new", readable()).unwrap();
        state
            .intend(
                &tree,
                Undo::File {
                    path: "/etc/old".into(),
                    before: Some(before),
                    after: Sha256::of(b"new"),
                },
            )
            .unwrap();
        tree.write(Path::new("/etc/old"), b"new", readable())
            .unwrap();
        let link = Undo::Link {
            path: places::CURRENT.into(),
            before: None,
        };
        state.intend(&tree, link).unwrap();

        let mut read = State::read(&tree).unwrap().unwrap();
        read.undo_all(&tree, &[]).unwrap();
        read.undo_all(&tree, &[]).unwrap();
        read.settle(&tree).unwrap();
        assert_eq!(
            std::fs::read_to_string(dir.path().join("etc/old")).unwrap(),
            "old"
        );
        assert!(!dir.path().join("etc/new").exists());
        assert_eq!(State::read(&tree).unwrap().unwrap().undo, None);
    }
}

//! What is to be installed: files, and what they are called in a version.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bulkhead_guest::{Cache, Preference, Sha256};
use rustix::fs::FileType;

use crate::places;
use crate::tree::{FileError, Tree};
use crate::version::{BadVersion, Entry, FILE_LIMIT, Manifest, is_plain_name};

/// Most bytes of a payload.
const SIZE_LIMIT: u64 = 4 << 30;

/// Deepest directory of a payload.
const DEPTH_LIMIT: usize = 8;

/// The programs of a payload.
const PROGRAMS: [&str; 2] = [places::PROGRAM, places::SHIM];

/// Why a payload cannot be installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Something that is no file, or has no plain name.
    #[error(
        "the payload holds `{}`, which is no regular file or directory with a plain name; \
         take it out", .0.display()
    )]
    Strange(PathBuf),
    /// More than a payload can be.
    #[error("the payload `{}` has more than {FILE_LIMIT} files or {SIZE_LIMIT} bytes", .0.display())]
    TooLarge(PathBuf),
    /// Something that has to be in it is not.
    #[error("the payload `{}` has no `{missing}`; give a complete one", dir.display())]
    Incomplete {
        /// The payload.
        dir: PathBuf,
        /// What is missing.
        missing: String,
    },
    /// A file differs from what it was when the payload was opened.
    #[error("`{0}` of the payload changed while it was copied; try again")]
    Changed(String),
    /// There is no guest to go with the programs.
    #[error("the payload has no guest")]
    Guest(#[source] Box<bulkhead_guest::Error>),
    /// The release's version names no directory.
    #[error(transparent)]
    Version(#[from] BadVersion),
}

/// An opened payload.
#[derive(Debug)]
pub struct Payload {
    manifest: Manifest,
    /// In the manifest's order.
    sources: Vec<File>,
}

impl Payload {
    /// All of a directory, laid out as a version is: `bulkhead`,
    /// `containerd-shim-bulkhead-v2`, `guest/guests/…`. `release` is the
    /// version of the programs in it.
    ///
    /// # Errors
    /// [`PayloadError`].
    pub fn directory(dir: &Path, release: &str) -> Result<Self, PayloadError> {
        let tree = Tree::open(dir)?;
        let mut files = Vec::new();
        collect(&tree, Path::new("/"), DEPTH_LIMIT, &mut files)?;
        Self::new(dir, release, files)
    }

    /// The programs of a directory and the guest that `bulkhead` would boot.
    ///
    /// # Errors
    /// [`PayloadError`].
    pub fn built(programs: &Path, cache: &Cache, release: &str) -> Result<Self, PayloadError> {
        let guest = cache
            .find(Preference::Auto)
            .map_err(|error| PayloadError::Guest(Box::new(error)))?;
        let mut files = Vec::new();
        let tree = Tree::open(programs)?;
        for name in PROGRAMS {
            if let Some(file) = tree.open_file(&Path::new("/").join(name))? {
                files.push((name.to_owned(), file));
            }
        }
        let name = guest
            .dir()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let tree = Tree::open(guest.dir())?;
        for file in ["kernel", "initramfs", "manifest.json"] {
            if let Some(opened) = tree.open_file(&Path::new("/").join(file))? {
                files.push((format!("{}/guests/{name}/{file}", places::GUESTS), opened));
            }
        }
        Self::new(programs, release, files)
    }

    fn new(
        dir: &Path,
        release: &str,
        mut files: Vec<(String, File)>,
    ) -> Result<Self, PayloadError> {
        files.sort_by(|(a, _), (b, _)| a.cmp(b));
        let too_large = || PayloadError::TooLarge(dir.to_owned());
        let mut entries = Vec::new();
        let mut left = SIZE_LIMIT;
        for (path, file) in &mut files {
            let entry = entry(path, file)?;
            left = left.checked_sub(entry.size).ok_or_else(too_large)?;
            entries.push(entry);
        }
        if entries.len() > FILE_LIMIT {
            return Err(too_large());
        }
        complete(dir, &entries)?;
        Ok(Self {
            manifest: Manifest::of(release, entries)?,
            sources: files.into_iter().map(|(_, file)| file).collect(),
        })
    }

    /// What it consists of.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Bytes of all files.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.manifest.files.iter().map(|file| file.size).sum()
    }

    /// Copies it and its manifest to a directory that does not exist yet, and
    /// syncs everything.
    pub(crate) fn copy_to(&mut self, tree: &Tree, dir: &Path) -> Result<(), PayloadError> {
        let mut dirs = tree.make_dirs(dir)?;
        for (entry, source) in self.manifest.files.iter().zip(&mut self.sources) {
            let path = dir.join(&entry.path);
            dirs.extend(tree.make_dirs(path.parent().unwrap_or(dir))?);
            let mut target = tree.create(&path, entry.mode)?;
            let failed = |source| FileError {
                path: path.clone(),
                what: "written",
                source,
            };
            source.rewind().map_err(failed)?;
            std::io::copy(&mut Read::by_ref(source).take(entry.size + 1), &mut target)
                .map_err(failed)?;
            target.sync_all().map_err(failed)?;
        }
        let path = dir.join(places::MANIFEST);
        let mut target = tree.create(&path, 0o644)?;
        target
            .write_all(self.manifest.to_text().as_bytes())
            .and_then(|()| target.sync_all())
            .map_err(|source| FileError {
                path,
                what: "written",
                source,
            })?;
        for dir in dirs.iter().rev() {
            tree.sync_dir(dir)?;
        }
        self.check_copies(tree, dir)
    }

    /// What was written is what was promised, whoever wrote to the source
    /// meanwhile.
    fn check_copies(&self, tree: &Tree, dir: &Path) -> Result<(), PayloadError> {
        for entry in &self.manifest.files {
            let changed = || PayloadError::Changed(entry.path.clone());
            let path = dir.join(&entry.path);
            let mut file = tree.open_file(&path)?.ok_or_else(changed)?;
            let digest = Sha256::of_file(&mut file).map_err(|source| FileError {
                path,
                what: "read",
                source,
            })?;
            if digest != entry.sha256 {
                return Err(changed());
            }
        }
        Ok(())
    }
}

fn entry(path: &str, file: &mut File) -> Result<Entry, FileError> {
    let failed = |source| FileError {
        path: path.into(),
        what: "read",
        source,
    };
    let meta = file.metadata().map_err(failed)?;
    let mut limited = file.try_clone().map_err(failed)?;
    let sha256 = Sha256::of_file(&mut limited).map_err(failed)?;
    let executable = meta.permissions().mode() & 0o111 != 0;
    Ok(Entry {
        path: path.to_owned(),
        size: meta.len(),
        mode: if executable { 0o755 } else { 0o644 },
        sha256,
    })
}

fn complete(dir: &Path, entries: &[Entry]) -> Result<(), PayloadError> {
    let guests = format!("{}/guests/", places::GUESTS);
    let has_guest =
        |entry: &Entry| entry.path.starts_with(&guests) && entry.path.ends_with("/manifest.json");
    let program = |name: &str| {
        let is = |entry: &Entry| entry.path == name && entry.mode == 0o755;
        entries.iter().any(is)
    };
    let missing = PROGRAMS
        .iter()
        .find(|name| !program(name))
        .map(|name| (*name).to_owned());
    let missing = missing
        .or_else(|| (!entries.iter().any(has_guest)).then(|| format!("{guests}*/manifest.json")));
    match missing {
        None => Ok(()),
        Some(missing) => Err(PayloadError::Incomplete {
            dir: dir.to_owned(),
            missing,
        }),
    }
}

fn collect(
    tree: &Tree,
    dir: &Path,
    depth: usize,
    files: &mut Vec<(String, File)>,
) -> Result<(), PayloadError> {
    for name in tree.list(dir)?.unwrap_or_default() {
        let path = dir.join(&name);
        let strange = || PayloadError::Strange(path.clone());
        if !is_plain_name(&name) || depth == 0 {
            return Err(strange());
        }
        match tree.kind(&path)? {
            Some(FileType::Directory) => collect(tree, &path, depth - 1, files)?,
            Some(FileType::RegularFile) => {
                let file = tree.open_file(&path)?.ok_or_else(strange)?;
                let inner = path.to_string_lossy().trim_start_matches('/').to_owned();
                files.push((inner, file));
            }
            _ => return Err(strange()),
        }
        if files.len() > FILE_LIMIT {
            return Err(PayloadError::TooLarge(tree.path().to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::payload;

    #[test]
    fn a_payload_is_copied_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        payload(dir.path(), "one");
        let mut payload = Payload::directory(dir.path(), "1.0").unwrap();
        let target = tempfile::tempdir().unwrap();
        let tree = Tree::open(target.path()).unwrap();
        let version = places::version(&payload.manifest().version);
        payload.copy_to(&tree, &version).unwrap();
        let manifest = Manifest::read(&tree, &payload.manifest().version).unwrap();
        assert_eq!(&manifest, payload.manifest());
        assert_eq!(manifest.drift(&tree).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_is_incomplete_or_strange_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let refused = || {
            Payload::directory(dir.path(), "1.0")
                .unwrap_err()
                .to_string()
        };
        assert!(refused().contains("`bulkhead`"));
        payload(dir.path(), "one");
        std::fs::remove_file(dir.path().join(places::SHIM)).unwrap();
        assert!(refused().contains(places::SHIM));
        payload(dir.path(), "one");
        for name in ["a b", ".hidden", "new\nline", "ä"] {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            assert!(refused().contains("plain name"), "{name}");
            std::fs::remove_file(path).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        assert!(refused().contains("link"));
    }

    #[test]
    fn a_file_that_changes_meanwhile_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        payload(dir.path(), "one");
        let mut opened = Payload::directory(dir.path(), "1.0").unwrap();
        std::fs::write(dir.path().join("bulkhead"), "another").unwrap();
        let target = tempfile::tempdir().unwrap();
        let tree = Tree::open(target.path()).unwrap();
        let error = opened.copy_to(&tree, Path::new("/v")).unwrap_err();
        assert!(matches!(error, PayloadError::Changed(path) if path == "bulkhead"));
    }
}

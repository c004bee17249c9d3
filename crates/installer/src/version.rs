//! Names of versions and the record of what is in one.

use std::fmt;
use std::path::{Path, PathBuf};

use bulkhead_guest::Sha256;
use serde::{Deserialize, Serialize};

use crate::places;
use crate::tree::{FileError, Tree};

/// The format of manifests this program writes and reads.
const FORMAT: u32 = 1;

/// Largest manifest read, bytes.
const MANIFEST_LIMIT: u64 = 1 << 20;

/// Most files of a version.
pub(crate) const FILE_LIMIT: usize = 1000;

/// Longest path of a file in a version, bytes.
const PATH_LIMIT: usize = 255;

/// Longest name of a version, bytes.
const NAME_LIMIT: usize = 64;

/// Hexadecimal digits of the digest in a version's name.
const DIGITS: usize = 12;

/// The name of an installed version: `0.1.0-3fd0a1c9e2b7`, the program's
/// version and a digest of every file. Names a directory, so it holds only
/// letters, digits, `.`, `+` and `-`, and begins with a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(String);

/// A text that names no version.
#[derive(Debug, thiserror::Error)]
#[error("`{}` is no version's name", .0.escape_debug())]
pub struct BadVersion(String);

impl Version {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Version {
    type Error = BadVersion;

    fn try_from(text: String) -> Result<Self, BadVersion> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-');
        let good = text.len() <= NAME_LIMIT
            && text.starts_with(|c: char| c.is_ascii_digit())
            && text.chars().all(fits);
        if good {
            Ok(Self(text))
        } else {
            Err(BadVersion(text))
        }
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One file of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Below the version's directory.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Permission bits: 0755 or 0644.
    pub mode: u32,
    /// Digest of its bytes.
    pub sha256: Sha256,
}

/// What a version consists of, `manifest.json` in its directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    /// Its name.
    pub version: Version,
    /// Every file but the manifest, by path.
    pub files: Vec<Entry>,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not there.
    #[error("the version `{0}` has no manifest: install again")]
    Absent(Version),
    /// It is no manifest.
    #[error("the manifest of the version `{version}` is damaged: install again")]
    Damaged {
        /// Whose.
        version: Version,
        /// What is wrong with the text.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Whether a path may be one of a version's: relative, of plain parts.
pub(crate) fn is_plain_path(path: &str) -> bool {
    path.len() <= PATH_LIMIT && !path.is_empty() && path.split('/').all(is_plain_name)
}

pub(crate) fn is_plain_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-');
    !name.is_empty() && !name.starts_with('.') && name.chars().all(fits)
}

impl Manifest {
    /// Names a version after its files. `release` is the program's version.
    ///
    /// # Errors
    /// [`BadVersion`] when `release` cannot be part of a name.
    pub(crate) fn of(release: &str, mut files: Vec<Entry>) -> Result<Self, BadVersion> {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut lines = String::new();
        for file in &files {
            let Entry {
                path,
                size,
                mode,
                sha256,
            } = file;
            lines.push_str(&format!("{path} {size} {mode:o} {sha256}\n"));
        }
        let digest = Sha256::of(lines.as_bytes()).to_string();
        Ok(Self {
            format: FORMAT,
            version: format!("{release}-{}", &digest[..DIGITS]).try_into()?,
            files,
        })
    }

    /// As text.
    pub(crate) fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads an installed version's.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn read(tree: &Tree, version: &Version) -> Result<Self, ManifestError> {
        let path = places::version(version).join(places::MANIFEST);
        let content = tree.read(&path, MANIFEST_LIMIT)?;
        let content = content.ok_or_else(|| ManifestError::Absent(version.clone()))?;
        Self::parse(&content.bytes, version).map_err(|source| ManifestError::Damaged {
            version: version.clone(),
            source,
        })
    }

    fn parse(
        bytes: &[u8],
        version: &Version,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let manifest: Self = serde_json::from_slice(bytes)?;
        let good = manifest.format == FORMAT
            && manifest.version == *version
            && manifest.files.len() <= FILE_LIMIT
            && manifest.files.iter().all(|file| is_plain_path(&file.path));
        if good {
            Ok(manifest)
        } else {
            Err("its format, version or paths are not this program's".into())
        }
    }

    /// Compares an installed version with its manifest: what differs, in
    /// words; nothing when all is as installed.
    ///
    /// # Errors
    /// [`FileError`] when something cannot be looked at.
    pub fn drift(&self, tree: &Tree) -> Result<Vec<String>, FileError> {
        let dir = places::version(&self.version);
        let mut found = Vec::new();
        for entry in &self.files {
            let path = dir.join(&entry.path);
            match differs(tree, &path, entry)? {
                Some(how) => found.push(format!("`{}` {how}", path.display())),
                None => continue,
            }
        }
        let mut present = Vec::new();
        walk(tree, &dir, &mut present)?;
        let known = |path: &Path| {
            let inner = path.strip_prefix(&dir).unwrap_or(path);
            inner == Path::new(places::MANIFEST)
                || self.files.iter().any(|file| Path::new(&file.path) == inner)
        };
        let foreign = present.iter().filter(|path| !known(path));
        found.extend(foreign.map(|path| format!("`{}` is not ours", path.display())));
        Ok(found)
    }
}

fn differs(tree: &Tree, path: &Path, entry: &Entry) -> Result<Option<String>, FileError> {
    use rustix::fs::FileType;
    use std::os::unix::fs::PermissionsExt;
    match tree.kind(path)? {
        None => return Ok(Some("is missing".to_owned())),
        Some(FileType::RegularFile) => (),
        Some(_) => return Ok(Some("is no regular file any more".to_owned())),
    }
    let Some(mut file) = tree.open_file(path)? else {
        return Ok(Some("is missing".to_owned()));
    };
    let failed = |source| FileError {
        path: path.to_owned(),
        what: "read",
        source,
    };
    let meta = file.metadata().map_err(failed)?;
    let mode = meta.permissions().mode() & 0o7777;
    if mode != entry.mode {
        return Ok(Some(format!(
            "has mode {mode:o} instead of {:o}",
            entry.mode
        )));
    }
    // The size first: a file that grew without end is not read.
    let same =
        meta.len() == entry.size && Sha256::of_file(&mut file).map_err(failed)? == entry.sha256;
    Ok((!same).then(|| "has other contents".to_owned()))
}

/// Everything below a directory that is none itself; at most a few more than
/// a version can have.
fn walk(tree: &Tree, dir: &Path, found: &mut Vec<PathBuf>) -> Result<(), FileError> {
    for name in tree.list(dir)?.unwrap_or_default() {
        let path = dir.join(name);
        if tree.kind(&path)? == Some(rustix::fs::FileType::Directory) {
            walk(tree, &path, found)?;
        } else {
            found.push(path);
        }
        if found.len() > 2 * FILE_LIMIT {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(path: &str, contents: &[u8]) -> Entry {
        Entry {
            path: path.to_owned(),
            size: contents.len() as u64,
            mode: 0o644,
            sha256: Sha256::of(contents),
        }
    }

    #[test]
    fn equal_files_have_equal_names_in_any_order() {
        let (a, b) = (entry("a", b"1"), entry("b", b"2"));
        let one = Manifest::of("1.0", vec![a.clone(), b.clone()]).unwrap();
        let two = Manifest::of("1.0", vec![b, a]).unwrap();
        assert_eq!(one, two);
        let other = Manifest::of("1.0", vec![entry("a", b"2")]).unwrap();
        assert_ne!(one.version, other.version);
    }

    #[test]
    fn every_kind_of_drift_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        let files = ["good", "grown", "gone", "open", "link"].map(|name| entry(name, b"x"));
        let manifest = Manifest::of("1.0", files.to_vec()).unwrap();
        let own = dir
            .path()
            .join("opt/bulkhead/versions")
            .join(manifest.version.as_str());
        std::fs::create_dir_all(own.join("inner")).unwrap();
        let put = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::write(own.join(name), text).unwrap();
            let mode = if name == "open" { 0o666 } else { 0o644 };
            std::fs::set_permissions(own.join(name), PermissionsExt::from_mode(mode)).unwrap();
        };
        put("good", "x");
        put("grown", "xy");
        put("open", "x");
        put("inner/new", "");
        put("manifest.json", &manifest.to_text());
        std::os::unix::fs::symlink("good", own.join("link")).unwrap();
        let read = Manifest::read(&tree, &manifest.version).unwrap();
        let drift = read.drift(&tree).unwrap().join("\n");
        for (name, how) in [
            ("grown", "other contents"),
            ("gone", "missing"),
            ("open", "mode 666"),
            ("link", "no regular file"),
            ("inner/new", "not ours"),
        ] {
            let told = drift
                .lines()
                .find(|line| line.contains(&format!("/{name}`")));
            assert!(
                told.is_some_and(|line| line.contains(how)),
                "{name}: {drift}"
            );
        }
        assert!(!drift.contains("/good"), "{drift}");
    }

    #[test]
    fn names_that_could_lead_elsewhere_are_none() {
        for bad in [
            "",
            "..",
            "1/2",
            "1 2",
            "-1",
            ".1",
            "x1",
            "1\n",
            &"1".repeat(65),
        ] {
            assert!(Version::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
        for bad in ["", "/a", "a/../b", "a//b", ".a", "a/", "ä"] {
            assert!(!is_plain_path(bad), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_manifest_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let version = Version::try_from("1".to_owned()).unwrap();
            let _ = Manifest::parse(&bytes, &version);
        }
    }
}

//! The manifests in `deploy/` are the source; what other ways of installing
//! need is made of them here.
//!
//! ```text
//!   deploy/{crds,operator,node-agent,monitor,…}/*.yaml ──┬─▶ kustomize, as they are
//!                                                        ├─▶ deploy/chart    (Helm)
//!                                                        ├─▶ deploy/olm      (bundle)
//!                                                        └─▶ deploy/images.txt
//! ```

mod bundle;
mod chart;
mod expression;
mod settings;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use source::Source;

/// Files by their path below `deploy/`.
pub type Files = BTreeMap<PathBuf, String>;

/// What is made, all of it: files there that are not made are old.
const MADE: [&str; 3] = ["chart", "olm", "images.txt"];

/// Why nothing can be made of the manifests.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written.
    #[error("`{}` cannot be read or written", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("`{file}` is no YAML: {reason}")]
    Syntax {
        /// The file, below `deploy/`.
        file: String,
        /// What the parser says.
        reason: String,
    },
    /// The table of settings names something that is not in the manifests.
    #[error("the setting `{setting}` is about `{site}`, which no manifest has; see settings.rs")]
    NoSite {
        /// The setting.
        setting: String,
        /// Kind, name and pointer.
        site: String,
    },
    /// One setting stands for two different things.
    #[error("the manifests differ in what the setting `{setting}` is")]
    Differs {
        /// The setting.
        setting: String,
    },
    /// A manifest the bundle is made of is not there.
    #[error("no manifest has the {0}")]
    Missing(&'static str),
}

/// Makes everything that is made of the manifests below `deploy`.
///
/// # Errors
/// [`Error`].
pub fn render(deploy: &Path) -> Result<Files, Error> {
    let source = Source::read(deploy)?;
    let mut files = chart::render(&source)?;
    files.extend(bundle::render(&source)?);
    files.insert("images.txt".into(), images(&source));
    Ok(files)
}

/// Writes what is made below `deploy`, and takes away what is made no more.
///
/// # Errors
/// [`Error`].
pub fn write(deploy: &Path) -> Result<(), Error> {
    let files = render(deploy)?;
    for old in existing(deploy)?.keys() {
        if !files.contains_key(old) {
            let path = deploy.join(old);
            std::fs::remove_file(&path).map_err(failed(&path))?;
        }
    }
    for (path, text) in files {
        let path = deploy.join(path);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(failed(dir))?;
        }
        std::fs::write(&path, text).map_err(failed(&path))?;
    }
    Ok(())
}

/// The files that are not as they would be made, those too many included.
///
/// # Errors
/// [`Error`].
pub fn outdated(deploy: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut wanted = render(deploy)?;
    let mut outdated = Vec::new();
    for (path, text) in existing(deploy)? {
        if wanted.remove(&path) != Some(text) {
            outdated.push(path);
        }
    }
    outdated.extend(wanted.into_keys());
    Ok(outdated)
}

/// What is there of what is made.
fn existing(deploy: &Path) -> Result<Files, Error> {
    let mut files = Files::new();
    for made in MADE {
        collect(deploy, Path::new(made), &mut files)?;
    }
    Ok(files)
}

fn collect(deploy: &Path, below: &Path, files: &mut Files) -> Result<(), Error> {
    let path = deploy.join(below);
    if path.is_dir() {
        for entry in std::fs::read_dir(&path).map_err(failed(&path))? {
            let entry = entry.map_err(failed(&path))?;
            collect(deploy, &below.join(entry.file_name()), files)?;
        }
    } else if path.exists() {
        let text = std::fs::read_to_string(&path).map_err(failed(&path))?;
        files.insert(below.to_owned(), text);
    }
    Ok(())
}

/// Every image the manifests name, one a line: what a cluster without a way
/// out has to have beforehand.
fn images(source: &Source) -> String {
    let mut text = String::new();
    for image in source.images() {
        text.push_str(&image);
        text.push('\n');
    }
    text
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::File {
        path: path.to_owned(),
        source,
    }
}

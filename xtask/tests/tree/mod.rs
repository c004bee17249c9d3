//! The workspace's own source files.

use std::path::{Path, PathBuf};

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every one of them.
pub(crate) fn all_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in ["crates", "bin", "xtask", "tests"] {
        sources(&workspace().join(dir), &mut found);
    }
    found
}

//! Debian's packages, unpacked instead of installed.

use std::path::Path;
use std::process::Command;

use crate::run::{self, Outcome};

/// Unpacks what apt downloaded to a directory, below its `root`, and removes it.
pub(crate) fn unpack(dir: &Path) -> Outcome {
    let found = std::fs::read_dir(dir).map_err(|e| e.to_string())?;
    let paths = found.flatten().map(|entry| entry.path());
    let packages: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "deb"))
        .collect();
    if packages.is_empty() {
        return Err("apt downloaded no package".to_owned());
    }
    for package in packages {
        let mut unpack = Command::new("dpkg-deb");
        run::command(unpack.arg("-x").arg(&package).arg(dir.join("root")))?;
        std::fs::remove_file(package).map_err(|e| e.to_string())?;
    }
    Ok(())
}

//! The shared libraries of programs, by ldd(1).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::Outcome;

/// The libraries of a program and its loader, as it looks for them.
pub(crate) fn of(program: &Path) -> Outcome<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.map_err(|error| format!("`ldd` did not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`ldd {}`: {told}{text}", program.display()));
    }
    read(&text).map_err(|line| format!("`{}` needs `{line}`", program.display()))
}

/// Reads what ldd(1) writes; an error is the line of a library that is not there.
fn read(text: &str) -> Result<BTreeSet<PathBuf>, &str> {
    let mut found = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        let path = match line.split_once(" => ") {
            Some((_, path)) => path,
            None => line,
        };
        let path = path.split(" (").next().unwrap_or(path);
        if path.starts_with('/') {
            found.insert(PathBuf::from(path));
        } else if path == "not found" {
            return Err(line);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_counts_and_the_kernels_own_does_not() {
        let text = "\tlinux-vdso.so.1 (0x00007fff)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let paths = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(read(text), Ok(paths.map(PathBuf::from).into()));
        assert!(read("\tlibx.so.1 => not found\n").is_err());
        assert_eq!(read("\tstatically linked\n"), Ok(BTreeSet::new()));
    }
}

//! Finds QEMU and checks that it is new enough.

use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead_hypervisor::Error;

/// Oldest QEMU that has everything used here (the `stream` network backend).
pub const MINIMUM_VERSION: (u32, u32) = (7, 2);

const NAME: &str = "qemu-system-x86_64";

/// A QEMU whose version was checked.
#[derive(Debug, Clone)]
pub struct Program {
    pub(crate) path: PathBuf,
    version: (u32, u32, u32),
}

impl Program {
    /// Looks for `qemu-system-x86_64` in the directories of `search_path`
    /// (the form of `PATH`), and asks it for its version.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there is none or it is too old.
    pub fn find(search_path: &std::ffi::OsStr) -> Result<Self, Error> {
        let path = std::env::split_paths(search_path)
            // `libexec` is where RHEL keeps its own build.
            .chain([PathBuf::from("/usr/libexec")])
            .flat_map(|dir| [dir.join(NAME), dir.join("qemu-kvm")])
            .find(|path| path.is_file())
            .ok_or_else(|| {
                Error::Unavailable(format!(
                    "`{NAME}` is not on PATH; install it: `apt install qemu-system-x86` \
                     or `dnf install qemu-kvm`"
                ))
            })?;
        Self::at(&path)
    }

    /// Takes the QEMU at `path`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it does not run or is too old.
    pub fn at(path: &Path) -> Result<Self, Error> {
        let output = Command::new(path)
            .arg("--version")
            .output()
            .map_err(|source| Error::Start {
                program: path.display().to_string(),
                detail: "could not ask for its version".to_owned(),
                source: Some(source),
            })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = parse_version(&text).ok_or_else(|| {
            Error::Unavailable(format!("`{}` does not tell its version", path.display()))
        })?;
        if (version.0, version.1) < MINIMUM_VERSION {
            return Err(Error::Unavailable(format!(
                "`{}` is version {}.{}.{}, and {}.{} or newer is needed; \
                 install a newer one (Debian: from backports)",
                path.display(),
                version.0,
                version.1,
                version.2,
                MINIMUM_VERSION.0,
                MINIMUM_VERSION.1,
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            version,
        })
    }

    /// "7.2.22".
    pub fn version_text(&self) -> String {
        format!("{}.{}.{}", self.version.0, self.version.1, self.version.2)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let rest = text.split("version ").nth(1)?;
    let number: String = rest
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    let mut parts = number.split('.').map(str::parse);
    let major = parts.next()?.ok()?;
    let minor = parts.next()?.ok()?;
    let patch = parts.next().and_then(Result::ok).unwrap_or(0);
    Some((major, minor, patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn fake(version: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        std::fs::write(
            &path,
            format!("#!/bin/sh\necho 'QEMU emulator version {version} (X)'\n"),
        )
        .unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        (dir, path)
    }

    #[test]
    fn versions_are_read() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright";
        assert_eq!(parse_version(debian), Some((7, 2, 22)));
        assert_eq!(
            parse_version("QEMU emulator version 10.0.2"),
            Some((10, 0, 2))
        );
        assert_eq!(
            parse_version("QEMU emulator version 10.0"),
            Some((10, 0, 0))
        );
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn an_old_qemu_is_refused_with_the_way_out() {
        let (_dir, path) = fake("5.2.0");
        let text = Program::at(&path).unwrap_err().to_string();
        assert!(
            text.contains("5.2.0") && text.contains("7.2 or newer"),
            "{text}"
        );
    }

    #[test]
    fn no_qemu_says_how_to_install_it() {
        let empty = tempfile::tempdir().unwrap();
        let text = Program::find(empty.path().as_os_str())
            .unwrap_err()
            .to_string();
        assert!(text.contains("apt install"), "{text}");
    }

    #[test]
    fn a_new_one_is_found_on_the_path() {
        let (dir, path) = fake("9.1.0");
        let program = Program::find(dir.path().as_os_str()).unwrap();
        assert_eq!(program.path(), path);
        assert_eq!(program.version_text(), "9.1.0");
    }
}

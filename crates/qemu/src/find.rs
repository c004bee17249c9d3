//! Finds QEMU, and tells whether it is new enough.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead_hypervisor::Error;

/// Oldest QEMU that has everything used here (the `stream` network backend).
pub const MINIMUM_VERSION: (u32, u32) = (7, 2);

const NAME: &str = "qemu-system-x86_64";

/// A QEMU on this machine.
#[derive(Debug, Clone)]
pub struct Program {
    pub(crate) path: PathBuf,
}

/// Which QEMU: major, minor and patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Version {
    /// Can a vCPU be emulated while another one writes code? Before 8.1 what is
    /// translated while it is written may stay as it was (QEMU's commit
    /// deba78709ae8, "accel/tcg: Always lock pages before translation"): a kernel
    /// that patches itself beside a second vCPU meets its own breakpoint, and
    /// panics in one boot of thirty. Emulated machines use one processor then.
    pub fn translates_in_parallel(self) -> bool {
        self >= Version(8, 1, 0)
    }

    /// Has this version everything that is used here?
    pub(crate) fn check(self, program: &Program) -> Result<Self, Error> {
        let Version(major, minor, _) = self;
        if (major, minor) >= MINIMUM_VERSION {
            return Ok(self);
        }
        Err(Error::Unavailable(format!(
            "`{}` is version {self}, and {}.{} or newer is needed; \
             install a newer one (Debian: from backports)",
            program.path.display(),
            MINIMUM_VERSION.0,
            MINIMUM_VERSION.1,
        )))
    }
}

impl Program {
    /// Looks for `qemu-system-x86_64` in the directories of `search_path`
    /// (the form of `PATH`). Its version is seen when it runs.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there is none.
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
        Ok(Self { path })
    }

    /// Asks it for its version, which takes as long as starting a machine.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it is too old or does not tell,
    /// [`Error::Start`] when it does not run.
    pub fn version(&self) -> Result<Version, Error> {
        let output = Command::new(&self.path)
            .arg("--version")
            .output()
            .map_err(|source| Error::Start {
                program: self.path.display().to_string(),
                detail: "could not ask for its version".to_owned(),
                source: Some(source),
            })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = parse_version(&text).ok_or_else(|| {
            Error::Unavailable(format!(
                "`{}` does not tell its version",
                self.path.display()
            ))
        })?;
        version.check(self)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn parse_version(text: &str) -> Option<Version> {
    let rest = text.split("version ").nth(1)?;
    let number: String = rest
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    let mut parts = number.split('.').map(str::parse);
    let major = parts.next()?.ok()?;
    let minor = parts.next()?.ok()?;
    let patch = parts.next().and_then(Result::ok).unwrap_or(0);
    Some(Version(major, minor, patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that says a version. A child writes it: a test beside this one
    /// that forks would take a descriptor of ours along, and nobody can execute
    /// what somebody writes (ETXTBSY, execve(2)).
    fn fake(version: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let script = format!("#!/bin/sh\necho 'QEMU emulator version {version} (X)'\n");
        let wrote = Command::new("sh")
            .args(["-c", r#"printf %s "$1" > "$0" && chmod 755 "$0""#])
            .args([path.as_os_str(), script.as_ref()])
            .status();
        assert!(wrote.unwrap().success());
        (dir, path)
    }

    #[test]
    fn only_a_newer_one_emulates_several_processors_at_once() {
        assert!(!Version(7, 2, 22).translates_in_parallel());
        assert!(!Version(8, 0, 5).translates_in_parallel());
        assert!(Version(8, 1, 0).translates_in_parallel());
        assert!(Version(10, 0, 2).translates_in_parallel());
    }

    #[test]
    fn versions_are_read() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright";
        assert_eq!(parse_version(debian), Some(Version(7, 2, 22)));
        assert_eq!(
            parse_version("QEMU emulator version 10.0.2"),
            Some(Version(10, 0, 2))
        );
        assert_eq!(
            parse_version("QEMU emulator version 10.0"),
            Some(Version(10, 0, 0))
        );
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn an_old_qemu_is_refused_with_the_way_out() {
        let (dir, _) = fake("5.2.0");
        let program = Program::find(dir.path().as_os_str()).unwrap();
        let text = program.version().unwrap_err().to_string();
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
        assert_eq!(program.version().unwrap().to_string(), "9.1.0");
    }
}

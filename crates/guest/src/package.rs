//! Debian packages, from the machine's own package sources, unpacked and never installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{output, run};
use crate::{Error, Result};

/// A package as the package sources offer it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) sha256: String,
    depends: String,
}

impl Package {
    /// Looks a package up; its newest version.
    pub(crate) fn find(name: &str) -> Result<Self> {
        let mut command = Command::new("apt-cache");
        command.args(["show", "--no-all-versions", name]);
        let text = output(&mut command, "apt")?;
        parse(name, &text).ok_or_else(|| Error::NoPackage {
            package: name.to_owned(),
        })
    }

    /// "linux-source-6.12 6.12.1-1".
    pub(crate) fn label(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// The first dependency that begins so: how a meta package names the real one.
    pub(crate) fn dependency(&self, prefix: &str) -> Option<String> {
        let names = self
            .depends
            .split([',', '|'])
            .filter_map(|part| part.split_whitespace().next());
        names
            .filter(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .next()
    }

    /// Downloads it into `dir`, checks nothing but apt's own signatures, and unpacks it to
    /// `dir/root`.
    pub(crate) fn unpack(&self, dir: &Path, log: &Path) -> Result<PathBuf> {
        let mut download = Command::new("apt-get");
        download
            .args(["download", &format!("{}={}", self.name, self.version)])
            .current_dir(dir);
        run(&mut download, "apt", log, &mut |_| {})?;
        let file = deb_in(dir)?;
        let root = dir.join("root");
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("-x").arg(&file).arg(&root);
        run(&mut unpack, "dpkg", log, &mut |_| {})?;
        std::fs::remove_file(&file).map_err(Error::file("remove", &file))?;
        Ok(root)
    }
}

fn deb_in(dir: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(dir).map_err(Error::file("list", dir))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let is_deb = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    paths.into_iter().find(is_deb).ok_or(Error::Answer {
        program: "apt-get",
        answer: "no file".to_owned(),
        expected: "a downloaded package",
    })
}

fn parse(name: &str, text: &str) -> Option<Package> {
    let field = |key: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        line.map(|value| value.trim().to_owned())
    };
    // A version goes to a command line: only what Debian's policy allows.
    let version = field("Version").filter(|version| {
        version
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".+-:~".contains(&b))
    })?;
    Some(Package {
        name: name.to_owned(),
        version,
        sha256: field("SHA256").unwrap_or_default(),
        depends: field("Depends").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "Package: linux-image-cloud-amd64\nVersion: 6.1.1-2\n\
        Depends: linux-image-6.1.0-1-cloud-amd64 (= 6.1.1-2), x\nSHA256: ab\n";

    #[test]
    fn a_meta_package_names_the_real_one() {
        let package = parse("linux-image-cloud-amd64", SHOWN).unwrap();
        assert_eq!(package.version, "6.1.1-2");
        let real = package.dependency("linux-image-").unwrap();
        assert_eq!(real, "linux-image-6.1.0-1-cloud-amd64");
    }

    #[test]
    fn a_version_that_is_none_is_refused() {
        assert_eq!(parse("x", "Version: 1; rm -rf /\n"), None);
        assert_eq!(parse("x", ""), None);
    }
}

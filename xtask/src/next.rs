//! Debian's next release beside the machine's own, below `target`: the monitor, the
//! container managers and the tools that users have next, on this machine's kernel.

use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead_guest::Cache;

use crate::run::{self, Outcome};

/// The release.
const RELEASE: &str = "forky";

/// A root file system of the release, below `target`.
pub(crate) struct Root {
    /// The directory below `target` it is in.
    pub(crate) name: &'static str,
    /// What of the release is used.
    pub(crate) packages: &'static [&'static str],
}

/// For the tests.
pub(crate) const TESTS: Root = Root {
    name: "next",
    packages: &PACKAGES,
};

const PACKAGES: [&str; 27] = [
    "aardvark-dns",
    "busybox-static",
    "catatonit",
    "conmon",
    "containerd",
    "containernetworking-plugins",
    "crun",
    "docker-cli",
    "docker.io",
    "e2fsprogs",
    "erofs-utils",
    "fdisk",
    "iproute2",
    "iptables",
    "kmod",
    "libcap2-bin",
    "mount",
    "netavark",
    "nftables",
    "passt",
    "perl-base",
    "podman",
    "procps",
    "qemu-system-x86",
    "skopeo",
    "tini",
    "umoci",
];

/// What says which one it is; what runs is told by it.
const VERSIONS: &str = "qemu-system-x86_64 --version | head -n 1; containerd --version; \
                        podman --version; dockerd --version; conmon --version | head -n 1; runc --version | head -n 1";

/// What apt says of each index it would read, one a line.
const FIELDS: &str = "$(ORIGIN)|$(REPO_URI)";

/// What apt is told on this machine of releases that are older than they should be: it
/// holds for another release of the same archive too.
const AGE: &str = "Acquire::Check-Valid-Until";

/// Prints what runs in the one for the tests.
pub(crate) fn versions() -> Outcome {
    run::command(&mut TESTS.command(&["sh", "-c", VERSIONS])?)
}

impl Root {
    /// A command that runs there, as root, in the workspace.
    pub(crate) fn command(&self, words: &[&str]) -> Outcome<Command> {
        let guests = Cache::default_root().map_err(|error| error.to_string())?;
        std::fs::create_dir_all(&guests).map_err(|error| error.to_string())?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh"])
            .arg(run::workspace().join("xtask/src/next/enter.sh"))
            .args([self.made()?, run::workspace(), guests])
            .args(words);
        Ok(command)
    }

    /// Where it is, made where it is not there, which takes two minutes.
    fn made(&self) -> Outcome<PathBuf> {
        let dir = run::workspace().join("target").join(self.name);
        let (root, list) = (dir.join("root"), dir.join("packages"));
        let wanted = format!("{RELEASE} {}", self.packages.join(" "));
        if root.exists() && std::fs::read_to_string(&list).is_ok_and(|made| made == wanted) {
            return Ok(root);
        }
        make(&dir, &root, self.packages)
            .and_then(|()| std::fs::write(&list, &wanted).map_err(|e| e.to_string()))
            .map_err(|error| format!("Debian's release {RELEASE} could not be had: {error}"))?;
        Ok(root)
    }
}

fn make(dir: &Path, root: &Path, packages: &[&str]) -> Outcome {
    let half = dir.join("half");
    for old in [&half, root] {
        if old.exists() {
            std::fs::remove_dir_all(old).map_err(|e| e.to_string())?;
        }
    }
    std::fs::create_dir_all(dir).map_err(|e| e.to_string())?;
    println!(
        "unpacking Debian's release {RELEASE} below {}",
        dir.display()
    );
    let age = run::said(Command::new("apt-config").args(["dump", AGE]))?;
    let mut make = Command::new("mmdebstrap");
    make.args(["--quiet", "--variant=apt"])
        .arg(format!("--include={}", packages.join(",")))
        .args(
            ["doc", "man", "locale"].map(|of| format!("--dpkgopt=path-exclude=/usr/share/{of}/*")),
        )
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .args((!age.is_empty()).then(|| format!("--aptopt={age}")))
        .arg(RELEASE)
        .arg(&half)
        .arg(source()?);
    run::command(&mut make)?;
    std::fs::rename(&half, root).map_err(|e| e.to_string())
}

/// The same archive the machine has its packages from, with the other release; its
/// signature is checked by the keys apt trusts.
fn source() -> Outcome<String> {
    let mut ask = Command::new("apt-get");
    ask.args(["indextargets", "--format", FIELDS, "Created-By: Packages"]);
    let all = run::said(&mut ask)?;
    archive(&all).ok_or("apt knows no archive of Debian; `apt-get update`?".to_owned())
}

fn archive(targets: &str) -> Option<String> {
    let mut archives = targets
        .lines()
        .filter_map(|line| line.strip_prefix("Debian|"));
    // The archive of security fixes has no such release.
    let own = archives.find(|uri| !uri.is_empty() && !uri.contains("security"))?;
    Some(format!("deb {own} {RELEASE} main\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_the_machines_own() {
        let targets = "Somebody|https://packages.example/apt/\n\
                       Debian|http://archive.example/debian-security/\n\
                       Debian|http://archive.example/debian/\n";
        let source = archive(targets).unwrap();
        assert_eq!(source, "deb http://archive.example/debian/ forky main\n");
        assert_eq!(archive("Debian\nDebian|\n"), None);
    }
}

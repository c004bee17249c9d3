//! A containerd of the second line, beside the machine's own: Debian's next release
//! has one. Nothing of it is installed; its programs are unpacked below `target`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::packages;
use crate::run::{self, Outcome};

/// The release of Debian whose containerd it is.
const RELEASE: &str = "forky";

/// What apt says of each index it would read, one a line.
const FIELDS: &str = "$(ORIGIN)|$(REPO_URI)";

/// The directory with `containerd` and `ctr`, fetched if it is not there.
pub(crate) fn programs() -> Outcome<PathBuf> {
    let dir = run::workspace().join("target/containerd2");
    let programs = dir.join("root/usr/bin");
    if !programs.join("containerd").exists() {
        fetch(&dir).map_err(|error| format!("containerd 2 could not be fetched: {error}"))?;
    }
    let version = run::said(Command::new(programs.join("containerd")).arg("--version"))?;
    println!("{version}");
    // What runs is said by its version, not by where it came from.
    let second = version.split_whitespace().any(|word| {
        let number = word.trim_start_matches('v');
        number.starts_with("2.")
    });
    match second {
        true => Ok(programs),
        false => Err(format!(
            "this is not containerd 2: `{version}`; remove {}",
            dir.display()
        )),
    }
}

fn fetch(dir: &Path) -> Outcome {
    for part in ["lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(dir.join(part)).map_err(|e| e.to_string())?;
    }
    let sources = dir.join("sources.list");
    std::fs::write(&sources, source()?).map_err(|e| e.to_string())?;
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(dir);
        for (name, value) in [
            ("Dir::Etc::SourceList", "sources.list"),
            ("Dir::State::Lists", "lists"),
            ("Dir::Cache", "cache"),
        ] {
            let value = dir.join(value);
            command.arg("-o").arg(format!("{name}={}", value.display()));
        }
        command.args(["-o", "Dir::Etc::SourceParts=-"]);
        // The user apt fetches as may not write here.
        command.args(["-o", "APT::Sandbox::User=root"]);
        run::command(command.arg("-qq").args(args))
    };
    apt(&["update"])?;
    apt(&["download", "containerd"])?;
    packages::unpack(dir)?;
    // The release's lists are a hundred times what was wanted.
    for part in ["lists", "cache"] {
        std::fs::remove_dir_all(dir.join(part)).map_err(|e| e.to_string())?;
    }
    Ok(())
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

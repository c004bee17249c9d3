//! Docker for the tests: Debian's, fetched by the machine's own apt and unpacked below
//! `target`. Installed, it would start a daemon that changes the machine's network.

use std::process::Command;

use crate::packages;
use crate::run::{self, Outcome};

/// Debian's packages.
const PACKAGES: [&str; 2] = ["docker.io", "tini"];

/// Fetches it, if it is not there.
pub(crate) fn fetch() -> Outcome {
    let dir = run::workspace().join("target/docker");
    let root = dir.join("root");
    if !root.join("usr/sbin/dockerd").exists() {
        std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
        let mut apt = Command::new("apt-get");
        // The user apt fetches as may not write here.
        apt.args(["-qq", "-o", "APT::Sandbox::User=root", "download"]);
        run::command(apt.args(PACKAGES).current_dir(&dir))?;
        packages::unpack(&dir)?;
    }
    let mut ask = Command::new(root.join("usr/sbin/dockerd"));
    println!("{}", run::said(ask.arg("--version"))?);
    Ok(())
}

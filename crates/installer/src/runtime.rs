//! Container runtimes: their names, sockets, units and versions.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::tree::Tree;

/// microk8s' configuration of containerd, in which the snap fills in paths.
pub(crate) const MICROK8S: &str = "/var/snap/microk8s/current/args/containerd-template.toml";

/// A container runtime, and who configures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// containerd as a service of its own.
    Containerd,
    /// CRI-O.
    Crio,
    /// k3s' containerd.
    K3s,
    /// RKE2's containerd.
    Rke2,
    /// k0s' containerd.
    K0s,
    /// microk8s' containerd.
    Microk8s,
    /// Podman, which is no service: it reads its configuration each time.
    Podman,
}

impl Runtime {
    /// All, those that bring their own containerd first.
    pub const ALL: [Self; 7] = [
        Self::K3s,
        Self::Rke2,
        Self::K0s,
        Self::Microk8s,
        Self::Containerd,
        Self::Crio,
        Self::Podman,
    ];

    /// Its name in commands and reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Crio => "crio",
            Self::K3s => "k3s",
            Self::Rke2 => "rke2",
            Self::K0s => "k0s",
            Self::Microk8s => "microk8s",
            Self::Podman => "podman",
        }
    }

    /// A file or directory that shows that a machine has it.
    pub(crate) fn trace(self) -> &'static str {
        match self {
            Self::Containerd => "/etc/containerd",
            Self::Crio => "/etc/crio",
            Self::K3s => "/var/lib/rancher/k3s/agent/etc/containerd",
            Self::Rke2 => "/var/lib/rancher/rke2/agent/etc/containerd",
            Self::K0s => "/etc/k0s",
            Self::Microk8s => MICROK8S,
            Self::Podman => "/usr/bin/podman",
        }
    }

    /// Its CRI socket, below the machine's root; empty: it has none.
    #[must_use]
    pub fn socket(self) -> &'static str {
        match self {
            Self::Containerd => "/run/containerd/containerd.sock",
            Self::Crio => "/run/crio/crio.sock",
            Self::K3s | Self::Rke2 => "/run/k3s/containerd/containerd.sock",
            Self::K0s => "/run/k0s/containerd.sock",
            Self::Microk8s => "/var/snap/microk8s/common/run/containerd.sock",
            Self::Podman => "",
        }
    }

    /// Where its CRI socket is for this process, which sees the machine's root
    /// at another place.
    #[must_use]
    pub fn socket_in(self, tree: &Tree) -> PathBuf {
        tree.outside(Path::new(self.socket()))
    }

    /// systemd units one of which runs it; none where a change needs no
    /// restart.
    #[must_use]
    pub fn units(self) -> &'static [&'static str] {
        match self {
            Self::Containerd => &["containerd.service"],
            Self::Crio => &["crio.service"],
            Self::K3s => &["k3s.service", "k3s-agent.service"],
            Self::Rke2 => &["rke2-server.service", "rke2-agent.service"],
            // k0s watches its drop-ins.
            Self::K0s | Self::Podman => &[],
            Self::Microk8s => &["snap.microk8s.daemon-containerd.service"],
        }
    }

    /// The program that checks a configuration, where there is one.
    #[must_use]
    pub fn program(self) -> Option<&'static str> {
        match self {
            Self::Containerd => Some("containerd"),
            Self::Crio => Some("crio"),
            Self::K3s | Self::Rke2 | Self::K0s | Self::Microk8s | Self::Podman => None,
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A runtime's version, as far as it matters: `1.7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuntimeVersion(pub u32, pub u32);

impl RuntimeVersion {
    /// The first two numbers of a text such as `v1.6.20~ds1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().trim_start_matches('v').split('.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?;
        let digits = minor
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(minor.len());
        Some(Self(major, minor[..digits].parse().ok()?))
    }
}

impl fmt::Display for RuntimeVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_read_as_runtimes_tell_them() {
        for (text, version) in [
            ("1.6.20~ds1", RuntimeVersion(1, 6)),
            ("v2.0.5-k3s1", RuntimeVersion(2, 0)),
            ("v1.7.23+unknown", RuntimeVersion(1, 7)),
            ("1.31", RuntimeVersion(1, 31)),
        ] {
            assert_eq!(RuntimeVersion::parse(text), Some(version), "{text}");
        }
        for text in ["", "v", "2", "x.1", "1.x", "-1.2", "99999999999.1"] {
            assert_eq!(RuntimeVersion::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_version_panics(text in ".*") {
            let _ = RuntimeVersion::parse(&text);
        }
    }
}

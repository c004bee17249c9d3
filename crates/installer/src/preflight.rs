//! Can this machine take an installation? Looks, and changes nothing.

use std::path::Path;

use serde::Serialize;

use crate::config::{ConfigError, Place};
use crate::node::chain;
use crate::places;
use crate::runtime::{Runtime, RuntimeVersion};
use crate::tree::Tree;

/// Directories of programs.
const DIRS: [&str; 5] = [
    "/usr/bin",
    "/usr/sbin",
    "/usr/libexec",
    "/usr/local/bin",
    "/usr/local/sbin",
];

/// A program the shim needs: its package's name, its own names, and how to get
/// it.
type Wanted = (&'static str, [&'static str; 2], &'static str);

const PROGRAMS: [Wanted; 2] = [
    (
        "qemu",
        ["qemu-system-x86_64", "qemu-kvm"],
        "apt install qemu-system-x86, or dnf install qemu-kvm",
    ),
    (
        "e2fsprogs",
        ["mke2fs", "mkfs.ext4"],
        "apt install e2fsprogs, or dnf install e2fsprogs",
    ),
];

/// Room left free beside what an installation needs, bytes.
const SPARE: u64 = 64 << 20;

/// Largest file of the kernel's that is read here, bytes.
const FILE_LIMIT: u64 = 64 << 10;

/// How a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// Good.
    Ok,
    /// It will work, not as well as it could.
    Warn,
    /// It will not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// How it weighs.
    pub weight: Weight,
    /// What was seen.
    pub seen: String,
    /// What to do about it; nothing where all is good.
    pub way_out: Option<String>,
}

impl Finding {
    /// All is good.
    #[must_use]
    pub fn ok(name: &'static str, seen: impl Into<String>) -> Self {
        Self {
            name,
            weight: Weight::Ok,
            seen: seen.into(),
            way_out: None,
        }
    }

    /// Something is not.
    #[must_use]
    pub fn bad(
        name: &'static str,
        weight: Weight,
        seen: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self {
            name,
            weight,
            seen: seen.into(),
            way_out: Some(way_out.into()),
        }
    }
}

/// Looks at everything below the machine's root. `needed` is the size of what
/// would be installed, bytes.
#[must_use]
pub fn look(
    tree: &Tree,
    runtime: Option<RuntimeVersion>,
    place: &Result<Place, ConfigError>,
    needed: u64,
) -> Vec<Finding> {
    let mut found: Vec<Finding> = PROGRAMS
        .iter()
        .map(|wanted| program(tree, wanted))
        .collect();
    found.extend([cgroups(tree), disk(tree, needed), usr(tree), selinux(tree)]);
    let (runtime, configuration) = match place {
        Ok(place) => (runtime_of(place, runtime), Some(takes(place))),
        Err(error @ (ConfigError::None(_) | ConfigError::Several(_))) => (
            Finding::bad("runtime", Weight::Fail, chain(error), "as the text says"),
            None,
        ),
        Err(ConfigError::Version(runtime)) => (unknown(*runtime), None),
        Err(error) => (Finding::ok("runtime", "there is one"), Some(refuses(error))),
    };
    found.push(runtime);
    found.extend(configuration);
    found
}

fn takes(place: &Place) -> Finding {
    Finding::ok(
        "configuration",
        format!("`{}` takes it", place.path.display()),
    )
}

fn refuses(error: &ConfigError) -> Finding {
    Finding::bad(
        "configuration",
        Weight::Fail,
        chain(error),
        "as the text says",
    )
}

fn unknown(runtime: Runtime) -> Finding {
    Finding::bad(
        "runtime",
        Weight::Fail,
        format!("{runtime} does not answer, so its version is not known"),
        "start it, or give --runtime-version",
    )
}

fn runtime_of(place: &Place, version: Option<RuntimeVersion>) -> Finding {
    let version = version
        .map(|version| format!(" {version}"))
        .unwrap_or_default();
    Finding::ok("runtime", format!("{}{version}", place.runtime))
}

fn text(tree: &Tree, path: &str) -> Option<String> {
    let content = tree.read(Path::new(path), FILE_LIMIT).ok()??;
    Some(String::from_utf8_lossy(&content.bytes).trim().to_owned())
}

fn program(tree: &Tree, (name, names, package): &Wanted) -> Finding {
    let paths = DIRS
        .iter()
        .flat_map(|dir| names.iter().map(|name| Path::new(dir).join(name)));
    let mut there = paths.filter(|path| matches!(tree.kind(path), Ok(Some(_))));
    match there.next() {
        Some(path) => Finding::ok(name, format!("`{}`", path.display())),
        None => Finding::bad(name, Weight::Fail, "not there", *package),
    }
}

fn cgroups(tree: &Tree) -> Finding {
    let name = "cgroups";
    if text(tree, "/sys/fs/cgroup/cgroup.controllers").is_some() {
        return Finding::ok(name, "v2");
    }
    match tree.list(Path::new("/sys/fs/cgroup")) {
        Ok(Some(names)) if !names.is_empty() => Finding::ok(
            name,
            "v1; guests have v2 of their own, so containers do not notice",
        ),
        _ => Finding::bad(
            name,
            Weight::Warn,
            "`/sys/fs/cgroup` is empty or not visible below this root",
            "mount it: `mount -t cgroup2 none /sys/fs/cgroup`",
        ),
    }
}

fn disk(tree: &Tree, needed: u64) -> Finding {
    let name = "disk";
    let mib = |bytes: u64| bytes >> 20;
    let home = Path::new(places::HOME);
    match tree.space(home) {
        Ok((_, true)) => Finding::bad(
            name,
            Weight::Fail,
            format!("`{}` would be on a read-only file system", places::HOME),
            "mount something writable at `/opt`, or make `/opt` a link to a writable directory",
        ),
        Ok((free, false)) if free < needed.saturating_add(SPARE) => Finding::bad(
            name,
            Weight::Fail,
            format!("{} MiB are free at `{}`", mib(free), places::HOME),
            format!("make room for {} MiB", mib(needed.saturating_add(SPARE))),
        ),
        Ok((free, false)) => Finding::ok(name, format!("{} MiB are free", mib(free))),
        Err(error) => Finding::bad(name, Weight::Fail, chain(&error), "make `/opt` usable"),
    }
}

fn usr(tree: &Tree) -> Finding {
    let seen = match tree.space(Path::new("/usr")) {
        Ok((_, true)) => "read-only; nothing is written there",
        _ => "nothing is written there",
    };
    Finding::ok("usr", seen)
}

fn selinux(tree: &Tree) -> Finding {
    let name = "selinux";
    match text(tree, "/sys/fs/selinux/enforce").as_deref() {
        None => Finding::ok(name, "off"),
        Some("0") => Finding::ok(name, "permissive"),
        Some(_) => Finding::bad(
            name,
            Weight::Warn,
            "enforcing; there is no policy for Bulkhead yet, and this was not tried",
            "if pods do not start, look for denials: `ausearch -m avc -ts recent`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn look_at(dir: &Path, needed: u64) -> Vec<Finding> {
        let tree = Tree::open(dir).unwrap();
        let place = config::detect(&tree)
            .and_then(|runtime| config::place(&tree, runtime, Some(RuntimeVersion(1, 6))));
        look(&tree, Some(RuntimeVersion(1, 6)), &place, needed)
    }

    fn find<'a>(found: &'a [Finding], name: &str) -> &'a Finding {
        found.iter().find(|finding| finding.name == name).unwrap()
    }

    #[test]
    fn a_machine_without_a_runtime_is_told_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let found = look_at(dir.path(), 0);
        let runtime = find(&found, "runtime");
        assert!(runtime.weight == Weight::Fail && runtime.seen.contains("--runtime"));
    }

    #[test]
    fn a_configuration_nobody_can_read_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("etc/containerd")).unwrap();
        let path = dir.path().join("etc/containerd/config.toml");
        for text in [
            "version = 2\nx = [",
            "version = 9",
            "version = 2\n# BEGIN bulkhead",
        ] {
            std::fs::write(&path, text).unwrap();
            let tree = Tree::open(dir.path()).unwrap();
            let place = config::place(&tree, Runtime::Containerd, Some(RuntimeVersion(1, 6)));
            let refused = match place {
                Ok(place) => place.render(Some(text), &[], &"1".to_owned().try_into().unwrap()),
                Err(error) => Err(error),
            };
            let refused = refused.unwrap_err();
            assert!(refused.to_string().contains("config.toml"), "{refused}");
        }
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        let found = look_at(dir.path(), 0);
        assert_eq!(find(&found, "configuration").weight, Weight::Fail);
    }

    #[test]
    fn a_full_disk_says_how_much_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let found = look_at(dir.path(), u64::MAX - 1);
        let disk = find(&found, "disk");
        assert!(
            disk.weight == Weight::Fail && disk.way_out.is_some(),
            "{disk:?}"
        );
        assert_eq!(find(&look_at(dir.path(), 0), "disk").weight, Weight::Ok);
    }

    #[test]
    fn programs_are_looked_for_below_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("usr/libexec")).unwrap();
        std::fs::write(dir.path().join("usr/libexec/qemu-kvm"), "").unwrap();
        let found = look_at(dir.path(), 0);
        assert_eq!(find(&found, "qemu").weight, Weight::Ok);
        let missing = find(&found, "e2fsprogs").way_out.as_ref().unwrap();
        assert!(missing.contains("apt install e2fsprogs"));
    }

    #[test]
    fn enforcing_selinux_is_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("sys/fs/selinux")).unwrap();
        std::fs::write(dir.path().join("sys/fs/selinux/enforce"), "1").unwrap();
        assert_eq!(
            find(&look_at(dir.path(), 0), "selinux").weight,
            Weight::Warn
        );
    }
}

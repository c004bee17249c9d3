//! The hierarchies this host accounts in.

use std::io;
use std::path::{Path, PathBuf};

/// Controllers of version 1 whose groups a pod's processes have to be in. The
/// others only restrict, and what they are to restrict is in the guest.
const V1: [&str; 6] = ["cpu", "cpuacct", "memory", "pids", "blkio", "cpuset"];

/// Controllers handed down in version 2.
const V2: [&str; 5] = ["cpu", "memory", "pids", "io", "cpuset"];

/// A memory limit of version 1 above this is none: it is a page less than the
/// largest signed number.
const NO_LIMIT: u64 = 1 << 62;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) mount: PathBuf,
    /// Of version 1; empty: version 2.
    controllers: Vec<String>,
}

/// The one of version 2 where it has the controllers, else those of version 1.
pub(super) fn mounted() -> io::Result<Vec<Hierarchy>> {
    let found = parse(&std::fs::read_to_string("/proc/self/mountinfo")?);
    let unified = found.iter().position(|own| own.is_v2());
    let (mut v2, mut v1): (Vec<_>, Vec<_>) = found.into_iter().partition(Hierarchy::is_v2);
    let controls = |own: &Hierarchy| {
        let list = std::fs::read_to_string(own.mount.join("cgroup.controllers"));
        list.is_ok_and(|list| list.split_whitespace().any(|word| word == "memory"))
    };
    if unified.is_some() && (v1.is_empty() || v2.iter().any(controls)) {
        v2.truncate(1);
        return Ok(v2);
    }
    v1.retain(|own| own.controllers.iter().any(|c| V1.contains(&c.as_str())));
    if v1.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no hierarchy of control groups is mounted",
        ));
    }
    Ok(v1)
}

/// Reads proc_pid_mountinfo(5). Only mounts of a whole hierarchy, each once.
fn parse(text: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut left = left.split(' ').skip(3);
        let (root, mount) = (left.next(), left.next());
        let mut right = right.split(' ');
        let (kind, options) = (right.next(), right.nth(1));
        let (Some("/"), Some(mount), Some(kind), Some(options)) = (root, mount, kind, options)
        else {
            continue;
        };
        let controllers = match kind {
            "cgroup2" => Vec::new(),
            // Among them "rw" and such, which no controller is called.
            "cgroup" => options.split(',').map(str::to_owned).collect(),
            _ => continue,
        };
        let new = Hierarchy {
            mount: mount.into(),
            controllers,
        };
        if !found.iter().any(|own| own.controllers == new.controllers) {
            found.push(new);
        }
    }
    found
}

/// The directories of the groups this process is in.
pub(super) fn own(hierarchies: &[Hierarchy]) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    hierarchies
        .iter()
        .map(|hierarchy| {
            let path = text.lines().find_map(|line| hierarchy.member(line));
            let dir = hierarchy.mount.join(path.unwrap_or_default());
            match dir.is_dir() {
                true => dir,
                false => hierarchy.mount.clone(),
            }
        })
        .collect()
}

impl Hierarchy {
    fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }

    pub(super) fn counts(&self, controller: &str) -> bool {
        self.is_v2() || self.has(controller)
    }

    /// The path in a line of proc_pid_cgroup(5) that speaks of this hierarchy:
    /// "4:memory:/a/b", "0::/a/b".
    fn member<'a>(&self, line: &'a str) -> Option<&'a str> {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let own = match self.is_v2() {
            true => controllers.is_empty(),
            false => controllers.split(',').any(|name| self.has(name)),
        };
        own.then(|| path.trim_start_matches('/'))
    }

    /// Makes a group and those above it.
    pub(super) fn make(&self, path: &Path) -> io::Result<()> {
        let mut dir = self.mount.clone();
        for part in path {
            if self.is_v2() {
                hand_down(&dir);
            }
            dir.push(part);
            match std::fs::create_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            if self.has("cpuset") {
                inherit_cpus(&dir)?;
            }
        }
        Ok(())
    }

    pub(super) fn memory_limit(&self, path: &Path) -> Option<u64> {
        match self.is_v2() {
            true => self.least(path, "memory.max"),
            false => self.least(path, "memory.limit_in_bytes"),
        }
    }

    pub(super) fn pids_limit(&self, path: &Path) -> Option<u64> {
        self.least(path, "pids.max")
    }

    /// The least a file says in the group and those above it.
    fn least(&self, path: &Path, file: &str) -> Option<u64> {
        path.ancestors()
            .filter_map(|path| std::fs::read_to_string(self.mount.join(path).join(file)).ok())
            .filter_map(|text| text.trim().parse().ok())
            .filter(|limit| *limit < NO_LIMIT)
            .min()
    }
}

/// Groups below are to have the controllers. One the kernel does not let go
/// of stays with the group above, which accounts for all below it.
fn hand_down(dir: &Path) {
    for controller in V2 {
        let _ = std::fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// A new group of version 1 has no CPUs and takes no process before it has.
fn inherit_cpus(dir: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = dir.join(file);
        if std::fs::read_to_string(&own)?.trim().is_empty() {
            let above = dir.parent().unwrap_or(dir).join(file);
            std::fs::write(own, std::fs::read_to_string(above)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_both_versions_are_told_apart() {
        let text = "\
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
37 31 0:33 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct
38 31 0:32 /part /inside rw - cgroup cgroup rw,memory,x
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
50 31 0:40 / /proc rw - proc proc rw
nonsense";
        let found = parse(text);
        let mounts: Vec<_> = found.iter().map(|own| own.mount.display()).collect();
        let names: Vec<_> = mounts.iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "/sys/fs/cgroup/memory",
                "/sys/fs/cgroup/cpu,cpuacct",
                "/sys/fs/cgroup/unified"
            ]
        );
        assert_eq!(found[0].member("4:memory:/a/b"), Some("a/b"));
        assert_eq!(found[1].member("1:cpu,cpuacct:/"), Some(""));
        assert_eq!(found[1].member("4:memory:/a/b"), None);
        assert_eq!(found[2].member("0::/c"), Some("c"));
        assert_eq!(found[0].member("0::/c"), None);
    }
}

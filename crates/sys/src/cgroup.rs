//! A place in the host's control groups: cgroups(7), v1 and v2.
//!
//! A pod's processes on the host belong into the group its manager made for
//! the pod, so that the manager's limits and accounts hold for them.
//!
//! ```text
//!   Cgroup::of(path) ─▶ join ─▶ memory_limit …… leave ─▶ remove
//! ```

mod hierarchy;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use hierarchy::Hierarchy;

/// Longest path of a control group taken, bytes: PATH_MAX.
const PATH_LIMIT: usize = 4096;

/// Deepest path taken.
const DEPTH_LIMIT: usize = 32;

/// How long processes that were killed may take to be gone. Less than what
/// containerd grants for cleaning up, 5 seconds.
const END: Duration = Duration::from_secs(2);

/// After how long it is tried again to remove a group whose processes have
/// ended: they leave it when they leave their processor.
const LEFT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 1_000_000,
};

/// After how long it is looked again.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// Why a control group could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// What the caller was given is no path of a control group.
    #[error("`{path}` is no path of a control group: {why}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The kernel refused.
    #[error("cannot {what} the control group `{}`", path.display())]
    Failed {
        /// What was tried.
        what: &'static str,
        /// Its directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A control group, in every hierarchy that accounts for something.
#[derive(Debug)]
pub struct Cgroup {
    hierarchies: Vec<Hierarchy>,
    /// Below a hierarchy's root.
    path: PathBuf,
}

/// Where this process was before it joined.
#[derive(Debug)]
pub struct Origin {
    dirs: Vec<PathBuf>,
}

impl Cgroup {
    /// The group an OCI spec names: a path below the root of the hierarchies,
    /// or systemd's `SLICE:PREFIX:NAME`. It need not exist.
    ///
    /// # Errors
    /// [`CgroupError::Path`]; [`CgroupError::Failed`] when the mounts cannot be
    /// read.
    pub fn of(path: &str) -> Result<Self, CgroupError> {
        let relative = relative(path)?;
        let hierarchies = hierarchy::mounted().map_err(|source| CgroupError::Failed {
            what: "find the hierarchy of",
            path: relative.clone(),
            source,
        })?;
        Ok(Self {
            hierarchies,
            path: relative,
        })
    }

    /// Its path below the root of each hierarchy.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn dirs(&self) -> impl Iterator<Item = (&Hierarchy, PathBuf)> {
        let dir = |hierarchy: &Hierarchy| hierarchy.mount.join(&self.path);
        self.hierarchies
            .iter()
            .map(move |hierarchy| (hierarchy, dir(hierarchy)))
    }

    /// Moves this process there, making the group if need be. What it starts
    /// from now on is born there.
    ///
    /// # Errors
    /// [`CgroupError::Failed`]; the process may then be in some hierarchies'
    /// group and not in others'.
    pub fn join(&self) -> Result<Origin, CgroupError> {
        for (hierarchy, dir) in self.dirs() {
            let made = hierarchy.make(&self.path);
            made.map_err(|source| CgroupError::Failed {
                what: "make",
                path: dir,
                source,
            })?;
        }
        self.follow()
    }

    /// Moves this process there. The group has to exist: whoever made it may just be
    /// removing it, and must not find it again.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub fn follow(&self) -> Result<Origin, CgroupError> {
        let origin = Origin {
            dirs: hierarchy::own(&self.hierarchies),
        };
        for (_, dir) in self.dirs() {
            enter(&dir).map_err(|source| CgroupError::Failed {
                what: "join",
                path: dir,
                source,
            })?;
        }
        Ok(origin)
    }

    /// The least memory limit of the group and those above it, bytes; none:
    /// unlimited.
    pub fn memory_limit(&self) -> Option<u64> {
        self.counting("memory")?.memory_limit(&self.path)
    }

    /// The least number of processes and threads the group and those above it may
    /// have; none: unlimited.
    pub fn pids_limit(&self) -> Option<u64> {
        self.counting("pids")?.pids_limit(&self.path)
    }

    fn counting(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|own| own.counts(controller))
    }

    /// Removes the group once its processes have ended, which they must be
    /// about to. Nothing happens when it does not exist.
    ///
    /// # Errors
    /// [`CgroupError::Failed`] when processes are left or the kernel refuses.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + END;
        for (_, dir) in self.dirs() {
            remove(&dir, deadline).map_err(|source| CgroupError::Failed {
                what: "remove",
                path: dir,
                source,
            })?;
        }
        Ok(())
    }
}

impl Origin {
    /// Moves this process back. To the root where its former group is gone.
    ///
    /// # Errors
    /// [`CgroupError::Failed`].
    pub fn leave(&self) -> Result<(), CgroupError> {
        self.each("go back to", enter)
    }

    /// Moves another process there: a child that is not the group's business.
    ///
    /// # Errors
    /// [`CgroupError::Failed`].
    pub fn take(&self, pid: u32) -> Result<(), CgroupError> {
        self.each("move a process to", |dir| put(dir, pid))
    }

    fn each(
        &self,
        what: &'static str,
        work: impl Fn(&Path) -> io::Result<()>,
    ) -> Result<(), CgroupError> {
        for dir in &self.dirs {
            work(dir).map_err(|source| CgroupError::Failed {
                what,
                path: dir.clone(),
                source,
            })?;
        }
        Ok(())
    }
}

fn enter(dir: &Path) -> io::Result<()> {
    // "0" is whoever writes it.
    put(dir, 0)
}

fn put(dir: &Path, pid: u32) -> io::Result<()> {
    std::fs::write(dir.join("cgroup.procs"), pid.to_string())
}

/// Removes a group's directory, as soon as the kernel finds nobody in it.
fn remove(dir: &Path, deadline: Instant) -> io::Result<()> {
    loop {
        match std::fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                let late = Instant::now() > deadline;
                wait_a_while(dir, late.then_some(error))?;
            }
            other => return other,
        }
    }
}

/// Waits for somebody in a group to end, but not long: the kernel does not tell
/// that a process left, nor, in version 1, that one that has ended is out of the
/// group, which it is when it has left its processor for the last time. With
/// `busy`, of a group that may not be waited for any longer: says who is in it.
fn wait_a_while(dir: &Path, busy: Option<io::Error>) -> io::Result<()> {
    match (living(dir)?, busy) {
        (Some((_, pidfd)), None) => has_ended(&pidfd, &LOOK).map(drop),
        (None, None) => Ok(poll(&mut [], Some(&LEFT)).map(drop)?),
        (Some((pid, _)), Some(_)) => {
            let text = format!("the process {} does not end", pid.as_raw_nonzero());
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        }
        (None, Some(error)) => Err(error),
    }
}

/// Somebody who lives in a group. Version 1 still lists those whose parent has
/// not asked for their end yet.
fn living(dir: &Path) -> io::Result<Option<(Pid, OwnedFd)>> {
    let list = match std::fs::read_to_string(dir.join("cgroup.procs")) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // Removed by somebody else between opening and reading.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => return Ok(None),
        Err(error) => return Err(error),
    };
    let numbers = list.lines().filter_map(|line| line.parse().ok());
    for pid in numbers.filter_map(Pid::from_raw) {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) if !has_ended(&pidfd, &Timespec::default())? => {
                return Ok(Some((pid, pidfd)));
            }
            Ok(_) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Waits for the end of a process, but not longer than that.
fn has_ended(pidfd: &OwnedFd, limit: &Timespec) -> io::Result<bool> {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    Ok(poll(&mut fds, Some(limit))? > 0)
}

/// A spec's path as one below a hierarchy's root.
fn relative(path: &str) -> Result<PathBuf, CgroupError> {
    let wrong = |why| CgroupError::Path {
        path: path.chars().take(200).collect(),
        why,
    };
    if path.len() > PATH_LIMIT {
        return Err(wrong("it is too long"));
    }
    let mut parts = path.split(':');
    let found = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(slice), Some(prefix), Some(name), None) => {
            systemd(slice, prefix, name).ok_or_else(|| wrong("its slice has no valid name"))?
        }
        _ => Path::new(path.trim_start_matches('/')).to_owned(),
    };
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    match found.components().count() {
        0 => Err(wrong("it is empty")),
        1..=DEPTH_LIMIT if found.components().all(plain) => Ok(found),
        1..=DEPTH_LIMIT => Err(wrong("it has `.` or `..` in it")),
        _ => Err(wrong("it is too deep")),
    }
}

/// The group above the one an OCI spec names, below the root of the hierarchies;
/// none: the root itself.
///
/// # Errors
/// [`CgroupError::Path`].
pub fn parent(path: &str) -> Result<Option<PathBuf>, CgroupError> {
    let own = relative(path)?;
    let parent = own.parent().filter(|path| !path.as_os_str().is_empty());
    Ok(parent.map(Path::to_owned))
}

/// The slice and the scope of systemd's an OCI spec names as the group; none: a group
/// that is no scope. systemd.scope(5).
pub fn scope(path: &str) -> Option<(String, String)> {
    let name = relative(path).ok()?.file_name()?.to_str()?.to_owned();
    let (slice, rest) = path.split_once(':')?;
    (rest.contains(':') && name.ends_with(".scope")).then(|| (slice.to_owned(), name))
}

/// systemd.slice(5): `a-b.slice` is below `a.slice`; a scope is named after its
/// prefix, unless it is itself a slice.
fn systemd(slice: &str, prefix: &str, name: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    let stem = slice.strip_suffix(".slice")?;
    if stem != "-" {
        for (end, _) in stem.match_indices('-').chain([(stem.len(), "")]) {
            if stem[..end].is_empty() || stem[..end].ends_with('-') {
                return None;
            }
            path.push(format!("{}.slice", &stem[..end]));
        }
    }
    if name.is_empty() || [slice, prefix, name].iter().any(|part| part.contains('/')) {
        return None;
    }
    path.push(match (name.ends_with(".slice"), prefix) {
        (true, _) => name.to_owned(),
        (false, "") => format!("{name}.scope"),
        (false, prefix) => format!("{prefix}-{name}.scope"),
    });
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_below_the_root_and_stays_there() {
        let path = |text: &str| relative(text).map(|path| path.display().to_string());
        assert_eq!(path("/kubepods/pod1/abc").unwrap(), "kubepods/pod1/abc");
        assert_eq!(
            path("kubepods-burstable-pod1.slice:cri-containerd:abc").unwrap(),
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/\
             cri-containerd-abc.scope"
        );
        assert_eq!(path("-.slice:x:abc").unwrap(), "x-abc.scope");
        for wrong in [
            "",
            "/",
            "../x",
            "/a/../../etc",
            "a/./../b",
            "--.slice:a:b",
            "a.slice:../..:b",
            "a:b:c",
        ] {
            assert!(path(wrong).is_err(), "{wrong}");
        }
        assert!(path(&"a/".repeat(40)).is_err());
    }

    #[test]
    fn the_group_above_is_the_same_however_it_is_written() {
        let of = |path: &str| parent(path).unwrap().map(|path| path.display().to_string());
        let pod = Some("kubepods.slice/kubepods-podu1.slice".to_owned());
        for own in [
            "kubepods-podu1.slice:crio:abc",
            "kubepods-podu1.slice:cri-containerd:abc",
            "/kubepods.slice/kubepods-podu1.slice/abc",
        ] {
            assert_eq!(of(own), pod, "{own}");
        }
        assert_eq!(of("/abc"), None);
        assert!(parent("../abc").is_err());
    }

    #[test]
    fn a_scope_is_what_systemd_calls_so() {
        let pod = "kubepods-pod1.slice:cri-containerd:abc";
        let names = ("kubepods-pod1.slice", "cri-containerd-abc.scope");
        assert_eq!(scope(pod), Some((names.0.to_owned(), names.1.to_owned())));
        for other in [
            "a.slice:x:b.slice",
            "/a.slice/b.scope",
            "a.slice:b.scope",
            "a:b:c",
            "../a.slice:b:c",
        ] {
            assert_eq!(scope(other), None, "{other}");
        }
    }

    #[test]
    fn who_has_ended_is_not_waited_for() {
        let name = format!("bulkhead-test-ended-{}", std::process::id());
        let group = Cgroup::of(&name).unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        for (hierarchy, dir) in group.dirs() {
            hierarchy.make(&group.path).unwrap();
            // Nothing is wrong when it was faster than this.
            let _ = put(&dir, child.id());
        }
        group.remove().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_group_is_joined_left_and_removed() {
        let root = rustix::process::geteuid().is_root();
        assert!(root, "control groups are root's: run the tests as root");
        let name = format!("bulkhead-test-{}", std::process::id());
        let group = Cgroup::of(&format!("/{name}/inner")).unwrap();
        let mine = || std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let before = mine();
        let origin = group.join().unwrap();
        assert!(mine().contains(&format!("/{name}/inner")), "{}", mine());
        origin.leave().unwrap();
        assert_eq!(mine(), before);
        group.remove().unwrap();
        group.remove().unwrap();
        Cgroup::of(&name).unwrap().remove().unwrap();
        assert!(!group.dirs().any(|(_, dir)| dir.exists()));
    }
}

//! Which namespaces a container gets, and how a further process finds them
//! again. namespaces(7).

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use bulkhead_protocol::{CONTAINER_PIDS, SHARED_PIDS, name};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};

use super::error::{Error, Result, Tried};
use super::syscalls;

/// Lines of an id map at most; user_namespaces(7).
const MAP_LIMIT: usize = 340;

/// What the spec asks for.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    fresh: Vec<LinuxNamespaceType>,
    join: Vec<(i32, PathBuf)>,
    pids: Pids,
    uid_map: String,
    gid_map: String,
}

/// In which process namespace it is to be born.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Pids {
    /// One of its own, or the agent's.
    #[default]
    Own,
    /// The one a pod's containers share.
    Pod,
    /// That of the container of this name.
    Of(String),
}

impl Pids {
    /// Which one a path of the spec means.
    fn at(path: &Path) -> Option<Self> {
        if path == Path::new(SHARED_PIDS) {
            return Some(Self::Pod);
        }
        let name = path.strip_prefix(CONTAINER_PIDS).ok()?.to_str()?;
        name::check(name).ok()?;
        Some(Self::Of(name.to_owned()))
    }
}

fn flag(kind: LinuxNamespaceType) -> i32 {
    match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => 0x80,
    }
}

impl Wanted {
    pub(super) fn from_spec(spec: &Spec) -> Result<Self> {
        let linux = spec.linux().as_ref();
        let mut wanted = Self::default();
        let list = linux
            .and_then(|linux| linux.namespaces().clone())
            .unwrap_or_default();
        for namespace in list {
            match (namespace.path(), namespace.typ()) {
                (_, LinuxNamespaceType::Time) => {
                    return Err(Error::invalid("a time namespace is not supported yet"));
                }
                (None, kind) => wanted.fresh.push(kind),
                (Some(path), LinuxNamespaceType::Pid) => {
                    wanted.pids = Pids::at(path).ok_or_else(|| unreachable(path, "pid"))?;
                }
                (Some(path), LinuxNamespaceType::User) => return Err(unreachable(path, "user")),
                (Some(path), kind) => wanted.join.push((flag(kind), path.clone())),
            }
        }
        if !wanted.has(LinuxNamespaceType::Mount) {
            return Err(Error::invalid(
                "a container needs a mount namespace of its own",
            ));
        }
        if wanted.has(LinuxNamespaceType::User) {
            let map = |list: Option<&Vec<LinuxIdMapping>>| id_map(list.map_or(&[], Vec::as_slice));
            wanted.uid_map = map(linux.and_then(|l| l.uid_mappings().as_ref()))?;
            wanted.gid_map = map(linux.and_then(|l| l.gid_mappings().as_ref()))?;
        }
        Ok(wanted)
    }

    /// Is there a new one of this kind?
    pub(super) fn has(&self, kind: LinuxNamespaceType) -> bool {
        self.fresh.contains(&kind)
    }

    /// In which process namespace it is to be born.
    pub(super) fn pids(&self) -> &Pids {
        &self.pids
    }

    /// Flags of the clone. The cgroup namespace comes later, made by the
    /// child itself: its root is the cgroup its maker is in, and during the
    /// clone that is still the agent's.
    pub(super) fn clone_flags(&self) -> u64 {
        let now = |kind: &&LinuxNamespaceType| **kind != LinuxNamespaceType::Cgroup;
        self.fresh
            .iter()
            .filter(now)
            .fold(0, |flags, kind| flags | flag(*kind) as u64)
    }

    /// In the child: joins what is to be joined, makes what is left.
    pub(super) fn enter(&self) -> Result<()> {
        for (kind, path) in &self.join {
            let what = || format!("join the namespace `{}`", path.display());
            let file = File::open(path).tried(what)?;
            syscalls::setns(file.as_fd(), *kind).tried(what)?;
        }
        if self.has(LinuxNamespaceType::Cgroup) {
            syscalls::unshare(libc::CLONE_NEWCGROUP)
                .tried(|| "make a cgroup namespace".to_owned())?;
        }
        Ok(())
    }

    /// In the agent: writes the maps of a new user namespace.
    pub(super) fn write_maps(&self, pid: i32) -> Result<()> {
        for (name, map) in [("uid_map", &self.uid_map), ("gid_map", &self.gid_map)] {
            if !map.is_empty() {
                let path = format!("/proc/{pid}/{name}");
                std::fs::write(&path, map).tried(|| format!("write `{path}`"))?;
            }
        }
        Ok(())
    }
}

fn unreachable(path: &Path, kind: &str) -> Error {
    Error::invalid(format!(
        "the {kind} namespace at `{}` cannot be joined",
        path.display()
    ))
}

fn id_map(list: &[LinuxIdMapping]) -> Result<String> {
    if list.is_empty() || list.len() > MAP_LIMIT {
        return Err(Error::invalid(format!(
            "a user namespace needs between 1 and {MAP_LIMIT} id mappings"
        )));
    }
    let line =
        |map: &LinuxIdMapping| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size());
    Ok(list.iter().map(line).collect())
}

/// A container's namespaces, held open: what its processes do to themselves
/// later changes nothing.
#[derive(Debug)]
pub(super) struct Pinned {
    list: Vec<(i32, OwnedFd)>,
}

impl Pinned {
    /// Opens those of a process that differ from the agent's own.
    pub(super) fn open(pid: i32) -> Result<Self> {
        // User first: it gives the right to join the others. Mount last: the
        // paths are the agent's until then.
        let kinds = [
            ("user", libc::CLONE_NEWUSER),
            ("ipc", libc::CLONE_NEWIPC),
            ("uts", libc::CLONE_NEWUTS),
            ("net", libc::CLONE_NEWNET),
            ("pid", libc::CLONE_NEWPID),
            ("cgroup", libc::CLONE_NEWCGROUP),
            ("mnt", libc::CLONE_NEWNS),
        ];
        let mut list = Vec::new();
        for (name, kind) in kinds {
            let path = format!("/proc/{pid}/ns/{name}");
            let own = std::fs::read_link(Path::new("/proc/self/ns").join(name)).ok();
            if own.is_some() && own == std::fs::read_link(&path).ok() {
                continue;
            }
            let file = File::open(&path).tried(|| format!("open `{path}`"))?;
            list.push((kind, file.into()));
        }
        Ok(Self { list })
    }

    /// The process namespace, where it differs from the agent's.
    pub(super) fn pids(&self) -> Option<BorrowedFd<'_>> {
        let mut all = self.list.iter();
        let (_, fd) = all.find(|(kind, _)| *kind == libc::CLONE_NEWPID)?;
        Some(fd.as_fd())
    }

    /// Joins them all.
    pub(super) fn join(&self) -> Result<()> {
        for (kind, fd) in &self.list {
            syscalls::setns(fd.as_fd(), *kind)
                .tried(|| "join the container's namespaces".to_owned())?;
        }
        Ok(())
    }
}

//! The namespaces of a container: new ones, joined ones, and pins of them
//! for processes that come later.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, LinuxTimeOffset, Spec};

use super::error::{During, Error};
use super::rootfs::shown;
use super::syscalls::{setns, unshare};

/// Each kind: its flag and its name in /proc/PID/ns. In the order a process
/// joins them: the user namespace last, as joining the others takes
/// privileges over them that it takes away.
const KINDS: [(i32, &str); 8] = [
    (libc::CLONE_NEWNET, "net"),
    (libc::CLONE_NEWIPC, "ipc"),
    (libc::CLONE_NEWUTS, "uts"),
    (libc::CLONE_NEWCGROUP, "cgroup"),
    (libc::CLONE_NEWTIME, "time"),
    (libc::CLONE_NEWPID, "pid"),
    (libc::CLONE_NEWNS, "mnt"),
    (libc::CLONE_NEWUSER, "user"),
];

/// Mappings a user namespace may have: the kernel's limit.
const MAPPING_LIMIT: usize = 340;

fn kind(typ: LinuxNamespaceType) -> i32 {
    match typ {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => libc::CLONE_NEWTIME,
    }
}

/// What the specification asks for, checked.
#[derive(Debug)]
pub(super) struct Plan {
    /// CLONE_NEW* of the new ones.
    new: i32,
    joined: Vec<(i32, OwnedFd)>,
    uid_map: String,
    gid_map: String,
    time_offsets: String,
}

impl Plan {
    pub(super) fn new(spec: &Spec) -> Result<Self, Error> {
        let linux = spec
            .linux()
            .as_ref()
            .ok_or_else(|| Error::invalid("the specification has no `linux` section"))?;
        let mut plan = Self {
            new: 0,
            joined: Vec::new(),
            uid_map: mappings(linux.uid_mappings().as_deref())?,
            gid_map: mappings(linux.gid_mappings().as_deref())?,
            time_offsets: time_offsets(linux.time_offsets().as_ref()),
        };
        for namespace in linux.namespaces().iter().flatten() {
            let kind = kind(namespace.typ());
            match namespace
                .path()
                .as_deref()
                .filter(|path| !path.as_os_str().is_empty())
            {
                None => plan.new |= kind,
                Some(path) => plan.joined.push((kind, open(path, namespace.typ())?)),
            }
        }
        if !plan.makes(libc::CLONE_NEWNS) {
            return Err(Error::invalid(
                "a container needs a mount namespace of its own",
            ));
        }
        if plan.makes(libc::CLONE_NEWUSER) && plan.uid_map.is_empty() | plan.gid_map.is_empty() {
            return Err(Error::invalid(
                "a user namespace needs mappings of users and groups",
            ));
        }
        Ok(plan)
    }

    /// Whether a kind is made new.
    pub(super) fn makes(&self, kind: i32) -> bool {
        self.new & kind != 0
    }

    /// Whether a kind is not the sandbox's own.
    pub(super) fn separates(&self, kind: i32) -> bool {
        self.makes(kind) || self.joined.iter().any(|(joined, _)| *joined == kind)
    }

    /// Flags for the fork. The cgroup namespace has to wait until the
    /// process is in its cgroup, and time namespaces hold for children only.
    pub(super) fn fork_flags(&self) -> u64 {
        let later = libc::CLONE_NEWCGROUP | libc::CLONE_NEWTIME;
        (self.new & !later) as u32 as u64
    }

    /// Moves the agent to where the child is to be born; it returns when the
    /// answer is dropped.
    pub(super) fn visit(&self) -> Result<Visit, Error> {
        let mut visit = Visit::default();
        for (kind, fd) in &self.joined {
            visit.enter(*kind, fd)?;
        }
        if self.makes(libc::CLONE_NEWTIME) {
            visit.remember(libc::CLONE_NEWTIME)?;
            unshare(libc::CLONE_NEWTIME).during("a time namespace could not be made")?;
            if !self.time_offsets.is_empty() {
                std::fs::write("/proc/self/timens_offsets", &self.time_offsets)
                    .during("the clocks' offsets could not be set")?;
            }
        }
        Ok(visit)
    }

    /// Writes the user namespace's mappings; false if it has none.
    pub(super) fn map_users(&self, pid: i32) -> Result<bool, Error> {
        if !self.makes(libc::CLONE_NEWUSER) {
            return Ok(false);
        }
        for (file, map) in [("uid_map", &self.uid_map), ("gid_map", &self.gid_map)] {
            std::fs::write(format!("/proc/{pid}/{file}"), map)
                .during_with(|| format!("the user namespace's `{file}` could not be set"))?;
        }
        Ok(true)
    }
}

fn open(path: &Path, typ: LinuxNamespaceType) -> Result<OwnedFd, Error> {
    if matches!(typ, LinuxNamespaceType::Mount | LinuxNamespaceType::User) {
        return Err(Error::invalid(format!(
            "a container cannot join the {typ} namespace {}: leave out its path",
            shown(path)
        )));
    }
    let file = File::open(path)
        .during_with(|| format!("the namespace {} could not be opened", shown(path)))?;
    Ok(file.into())
}

fn mappings(mappings: Option<&[LinuxIdMapping]>) -> Result<String, Error> {
    let mappings = mappings.unwrap_or_default();
    if mappings.len() > MAPPING_LIMIT {
        return Err(Error::invalid(format!(
            "more than {MAPPING_LIMIT} mappings of ids"
        )));
    }
    let line =
        |map: &LinuxIdMapping| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size());
    Ok(mappings.iter().map(line).collect())
}

fn time_offsets(offsets: Option<&HashMap<String, LinuxTimeOffset>>) -> String {
    let clocks = offsets
        .into_iter()
        .flatten()
        .filter(|(clock, _)| matches!(clock.as_str(), "monotonic" | "boottime"));
    clocks
        .map(|(clock, offset)| {
            let seconds = offset.secs().unwrap_or(0);
            format!("{clock} {seconds} {}\n", offset.nanosecs().unwrap_or(0))
        })
        .collect()
}

/// The agent away from home. Going back cannot fail: it is root in the first
/// user namespace. If it did, everything it did later would be in the wrong
/// place, so that would be the end.
#[derive(Debug, Default)]
pub(super) struct Visit {
    homes: Vec<(i32, OwnedFd)>,
}

impl Visit {
    fn remember(&mut self, kind: i32) -> Result<(), Error> {
        let name = name(kind);
        let home = File::open(format!("/proc/self/ns/{name}"))
            .during_with(|| format!("the agent's `{name}` namespace could not be opened"))?;
        self.homes.push((kind, home.into()));
        Ok(())
    }

    fn enter(&mut self, kind: i32, fd: &OwnedFd) -> Result<(), Error> {
        self.remember(kind)?;
        setns(fd.as_fd(), kind)
            .during_with(|| format!("the `{}` namespace could not be joined", name(kind)))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        for (kind, home) in self.homes.iter().rev() {
            setns(home.as_fd(), *kind).expect("root may return to the first namespaces");
        }
    }
}

fn name(kind: i32) -> &'static str {
    KINDS
        .iter()
        .find(|(flag, _)| *flag == kind)
        .map_or("?", |(_, name)| name)
}

/// A container's namespaces that are not the agent's, held open: they can be
/// joined even when the first process has replaced or left them.
#[derive(Debug)]
pub(super) struct Pins {
    pins: Vec<(i32, OwnedFd)>,
}

impl Pins {
    /// Pins those of a process.
    pub(super) fn of(pid: i32) -> io::Result<Self> {
        let mut pins = Vec::new();
        for (kind, name) in KINDS {
            let (own, its) = (
                format!("/proc/self/ns/{name}"),
                format!("/proc/{pid}/ns/{name}"),
            );
            let file = match File::open(its) {
                Ok(file) => file,
                // A kernel without this kind.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if file.metadata()?.ino() != std::fs::metadata(own)?.ino() {
                pins.push((kind, file.into()));
            }
        }
        Ok(Self { pins })
    }

    /// Moves the agent to the pid and time namespaces: those are given to
    /// children at their birth.
    pub(super) fn visit(&self) -> Result<Visit, Error> {
        let mut visit = Visit::default();
        for (kind, fd) in &self.pins {
            if [libc::CLONE_NEWPID, libc::CLONE_NEWTIME].contains(kind) {
                visit.enter(*kind, fd)?;
            }
        }
        Ok(visit)
    }

    /// Child: joins all the others.
    pub(super) fn join(&self) -> Result<(), Error> {
        for (kind, fd) in &self.pins {
            if ![libc::CLONE_NEWPID, libc::CLONE_NEWTIME].contains(kind) {
                setns(fd.as_fd(), *kind).during_with(|| {
                    format!("the `{}` namespace could not be joined", name(*kind))
                })?;
            }
        }
        Ok(())
    }

    /// Whether the container has a user namespace of its own.
    pub(super) fn has_user(&self) -> bool {
        self.pins
            .iter()
            .any(|(kind, _)| *kind == libc::CLONE_NEWUSER)
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = &OwnedFd> {
        self.pins.iter().map(|(_, fd)| fd)
    }
}

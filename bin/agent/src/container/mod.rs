//! Containers: the OCI runtime spec, inside the guest.
//!
//! The agent is single-threaded, so a forked child may run ordinary Rust
//! until it executes the command; there is no second program and no re-exec.
//!
//! ```text
//!   agent                         child (clone3: new namespaces, own cgroup)
//!     │ cgroup, limits               │
//!     ├── user maps, "proceed" ─────▶│ mounts, devices, pivot_root, sysctls
//!     │◀── ready (+ pty master) ─────┤ waits
//!     ├── "go" ─────────────────────▶│ ids, capabilities, seccomp, execve
//!     │◀── end of file: running, or the error execve gave
//! ```

mod accounts;
mod cgroup;
mod child;
mod command;
mod copyup;
mod credentials;
mod device_filter;
mod devices;
mod error;
mod exec;
mod keyring;
mod mount_options;
mod namespaces;
mod pod_pids;
mod refusal;
mod rootfs;
mod scheduling;
mod stats;
mod sync;
mod syscalls;
mod terminal;
mod user;

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use bulkhead_protocol::agent::Archive;
use oci_spec::runtime::{LinuxResources, Process, Spec};

use cgroup::Cgroup;
pub(crate) use copyup::fill as copy_tree;
use device_filter::DeviceFilter;
pub(crate) use error::{Error, ErrorKind};
use error::{Result, Tried};
use namespaces::{Pids, Pinned, Wanted};
pub(crate) use stats::Stats;
use sync::Channel;

/// What a process reads and writes.
#[derive(Debug)]
pub(crate) enum Stdio {
    /// Three pipes or files.
    Pipes {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A pty made in the container's devpts.
    Terminal,
}

impl Stdio {
    /// All the descriptors a child becoming a process has a use for.
    fn with<'a>(&'a self, channel: &'a Channel) -> Vec<BorrowedFd<'a>> {
        let mut list = vec![channel.as_fd()];
        if let Self::Pipes {
            stdin,
            stdout,
            stderr,
        } = self
        {
            list.extend([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
        }
        list
    }
}

/// What a container is made from.
#[derive(Debug)]
pub(crate) struct CreateArgs<'a> {
    /// A checked name.
    pub(crate) id: &'a str,
    pub(crate) spec: &'a Spec,
    /// The assembled root filesystem, a mount.
    pub(crate) rootfs: &'a Path,
    /// "name[:group]" to be looked up in the image.
    pub(crate) user: Option<&'a str>,
    /// struct sock_filter array.
    pub(crate) seccomp: Option<&'a [u8]>,
    /// The process namespace of the container [`pids_of`] names.
    pub(crate) pids: Option<OwnedFd>,
    pub(crate) stdio: Stdio,
}

/// The container whose process namespace this spec is to share.
pub(crate) fn pids_of(spec: &Spec) -> Result<Option<String>> {
    Ok(match Wanted::from_spec(spec)?.pids() {
        Pids::Of(name) => Some(name.clone()),
        Pids::Own | Pids::Pod => None,
    })
}

/// A created or running container.
#[derive(Debug)]
pub(crate) struct Container {
    cgroup: Cgroup,
    pid: i32,
    pinned: Pinned,
    devices: DeviceFilter,
    /// Its processes do not end with its first.
    shares_pids: bool,
    /// Open until started.
    waiting: Option<Channel>,
}

/// A first process that waits to be told to go on.
struct Forked {
    pid: i32,
    pinned: Pinned,
    devices: DeviceFilter,
    channel: Channel,
}

/// The way to end what a container's first process left.
#[derive(Debug)]
pub(crate) struct Rest {
    file: std::fs::File,
}

impl Rest {
    /// Kills them.
    pub(crate) fn kill(mut self) {
        // Fails only when the cgroup, and with it all of them, is gone.
        let _ = self.file.write_all(b"1");
    }
}

/// A further process.
#[derive(Debug)]
pub(crate) struct ProcessHandle {
    /// Pid in the guest.
    pub(crate) pid: i32,
}

impl Container {
    /// Makes a container up to the moment before its command is executed.
    pub(crate) fn create(args: &CreateArgs<'_>) -> Result<(Self, Option<OwnedFd>)> {
        refusal::container(args.spec)?;
        let wanted = Wanted::from_spec(args.spec)?;
        let cgroup = Cgroup::create(args.id)?;
        let made = Self::fork(args, &wanted, &cgroup);
        match made {
            Ok((forked, terminal)) => {
                let container = Self {
                    cgroup,
                    pid: forked.pid,
                    pinned: forked.pinned,
                    devices: forked.devices,
                    shares_pids: *wanted.pids() != Pids::Own,
                    waiting: Some(forked.channel),
                };
                Ok((container, terminal))
            }
            Err(error) => {
                let _ = cgroup.destroy();
                Err(error)
            }
        }
    }

    fn fork(
        args: &CreateArgs<'_>,
        wanted: &Wanted,
        cgroup: &Cgroup,
    ) -> Result<(Forked, Option<OwnedFd>)> {
        let resources = args
            .spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.resources().as_ref());
        if let Some(resources) = resources {
            cgroup.apply(resources)?;
        }
        let devices = DeviceFilter::attach(cgroup.fd(), args.spec)?;
        let (ours, theirs) = sync::pair()?;
        let inside = match (wanted.pids(), &args.pids) {
            (Pids::Own, _) => None,
            (Pids::Pod, _) => Some(pod_pids::enter(pod_pids::namespace()?)?),
            (Pids::Of(_), Some(namespace)) => Some(pod_pids::enter(namespace.as_fd())?),
            (Pids::Of(name), None) => return Err(no_pids_of(name)),
        };
        let forked = syscalls::clone_into(wanted.clone_flags(), Some(cgroup.fd()));
        let forked = forked.map_err(|error| match wanted.pids() {
            // What the kernel says of a namespace whose first process is gone.
            Pids::Of(name) if error.kind() == std::io::ErrorKind::OutOfMemory => no_pids_of(name),
            _ => Error::other(format!("fork into the container: {error}")),
        });
        let pid = match forked? {
            syscalls::Forked::Child => {
                drop(ours);
                syscalls::close_others(&args.stdio.with(&theirs));
                child::run(args, wanted, &theirs)
            }
            syscalls::Forked::Parent(pid) => pid,
        };
        drop((theirs, inside));
        let ready = wanted
            .write_maps(pid)
            .and_then(|()| match args.spec.process() {
                Some(process) => credentials::adjust_oom_score(pid, process),
                None => Ok(()),
            })
            .and_then(|()| ours.send(sync::PROCEED))
            .and_then(|()| ours.expect_ready());
        let terminal = match ready {
            Ok(terminal) => terminal,
            Err(error) => {
                syscalls::kill(pid);
                return Err(error);
            }
        };
        let pinned = Pinned::open(pid).inspect_err(|_| syscalls::kill(pid))?;
        let forked = Forked {
            pid,
            pinned,
            devices,
            channel: ours,
        };
        Ok((forked, terminal))
    }

    /// Lets the command be executed. The error is execve's.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.refuse_frozen()?;
        let channel = self
            .waiting
            .take()
            .ok_or_else(|| Error::invalid("the container was started before"))?;
        channel.send(sync::GO)?;
        channel.expect_exec()
    }

    /// Runs a further process.
    pub(crate) fn exec(
        &self,
        process: &Process,
        user: Option<&str>,
        seccomp: Option<&[u8]>,
        archive: Option<&Archive>,
        stdio: Stdio,
    ) -> Result<(ProcessHandle, Option<OwnedFd>)> {
        if self.waiting.is_some() {
            return Err(Error::invalid("the container was not started yet"));
        }
        self.refuse_frozen()?;
        refusal::process(process)?;
        let spec = exec::ExecSpec {
            id: self.cgroup.name(),
            process,
            user,
            seccomp,
            archive,
        };
        let (pid, terminal) = exec::run(&spec, &self.pinned, &self.cgroup, self.pid, stdio)?;
        Ok((ProcessHandle { pid }, terminal))
    }

    /// A process in a frozen cgroup never answers, and the agent has but one
    /// thread to wait with.
    fn refuse_frozen(&self) -> Result<()> {
        if self.cgroup.is_frozen() {
            return Err(Error::invalid("the container is paused: resume it first"));
        }
        Ok(())
    }

    /// Its process namespace; `None` for one that has the agent's.
    pub(crate) fn pids_namespace(&self) -> Result<Option<OwnedFd>> {
        let own = self.pinned.pids().map(|fd| fd.try_clone_to_owned());
        own.transpose()
            .tried(|| "share the process namespace".to_owned())
    }

    /// Pid of the first process in the guest.
    pub(crate) fn init_pid(&self) -> i32 {
        self.pid
    }

    /// What ends the container's processes when its first has ended, where the
    /// kernel does not: in a namespace whose first process is another.
    pub(crate) fn rest(&self) -> Result<Option<Rest>> {
        if !self.shares_pids {
            return Ok(None);
        }
        let path = self.cgroup.path().join("cgroup.kill");
        let file = std::fs::File::options().write(true).open(&path);
        let file = file.tried(|| format!("open `{}`", path.display()))?;
        Ok(Some(Rest { file }))
    }

    /// Pids of all processes in the guest.
    pub(crate) fn pids(&self) -> Result<Vec<i32>> {
        self.cgroup.pids()
    }

    /// Sends a signal to every process. SIGKILL goes through the cgroup, so
    /// that no fork can escape it.
    pub(crate) fn signal_all(&self, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL {
            return self.cgroup.kill();
        }
        for pid in self.pids()? {
            syscalls::signal(pid, signal);
        }
        Ok(())
    }

    /// Freezes every process.
    pub(crate) fn pause(&self) -> Result<()> {
        self.cgroup.freeze(true)
    }

    /// Thaws them.
    pub(crate) fn resume(&self) -> Result<()> {
        self.cgroup.freeze(false)
    }

    /// Changes limits.
    pub(crate) fn update(&mut self, resources: &LinuxResources) -> Result<()> {
        self.cgroup.apply(resources)?;
        self.devices.update(self.cgroup.fd(), resources)
    }

    /// What it uses.
    pub(crate) fn stats(&self) -> Result<Stats> {
        stats::read(self.cgroup.path())
    }

    /// How often the kernel killed one of its processes for memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        stats::oom_kills(self.cgroup.path())
    }

    /// Kills what is left and removes the cgroup.
    pub(crate) fn destroy(self) -> Result<()> {
        drop(self.waiting);
        self.cgroup.destroy()
    }
}

fn no_pids_of(name: &str) -> Error {
    Error::invalid(format!(
        "the container `{name}`, whose processes are to be shared, does not run"
    ))
}

/// Sends a signal to a child of the agent's that was not reaped yet; false
/// when it is gone.
pub(crate) fn send_signal(pid: i32, signal: i32) -> bool {
    syscalls::signal(pid, signal)
}

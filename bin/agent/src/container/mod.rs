//! Containers: the OCI runtime spec, inside the guest.
//!
//! The agent is single-threaded, so a forked child may run ordinary Rust
//! until it executes the command; there is no second program and no re-exec.
//! What a child answers is waited for beside everything else: one that hangs
//! holds up neither other containers nor other processes of its own.
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
mod making;
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
pub(crate) use cgroup::limit_pids;
pub(crate) use copyup::fill as copy_tree;
use device_filter::DeviceFilter;
pub(crate) use error::{Error, ErrorKind};
use error::{Result, Tried};
pub(crate) use exec::Starting;
pub(crate) use making::Making;
use namespaces::{Pids, Pinned, Wanted};
pub(crate) use stats::Stats;
use sync::{Answers, Channel};

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
    /// Until started.
    waiting: Option<Answers>,
}

/// A container's command that is being executed.
#[derive(Debug)]
pub(crate) struct Executing {
    answers: Answers,
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

impl Executing {
    /// Answers when it runs. The error is execve's.
    pub(crate) async fn done(self) -> Result<()> {
        self.answers.expect_exec().await
    }
}

impl Container {
    /// Lets the command be executed.
    pub(crate) fn start(&mut self) -> Result<Executing> {
        self.refuse_frozen()?;
        let answers = self
            .waiting
            .take()
            .ok_or_else(|| Error::invalid("the container was started before"))?;
        answers.send(sync::GO)?;
        Ok(Executing { answers })
    }

    /// Begins a further process.
    pub(crate) fn exec(
        &self,
        process: &Process,
        user: Option<&str>,
        seccomp: Option<&[u8]>,
        archive: Option<&Archive>,
        stdio: &Stdio,
    ) -> Result<Starting> {
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
        exec::begin(&spec, &self.pinned, &self.cgroup, self.pid, stdio)
    }

    /// A process in a frozen cgroup never answers.
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

/// Sends a signal to a child of the agent's that was not reaped yet; false
/// when it is gone.
pub(crate) fn send_signal(pid: i32, signal: i32) -> bool {
    syscalls::signal(pid, signal)
}

//! A further process in a running container.
//!
//! Joining a pid namespace concerns only children, so an intermediate child
//! joins everything and forks once more; CLONE_PARENT makes the second one
//! the agent's own child.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bulkhead_protocol::agent::Archive;
use oci_spec::runtime::Process;

use super::cgroup::Cgroup;
use super::error::{Error, Result, Tried};
use super::namespaces::Pinned;
use super::sync::{self, Answers, Channel};
use super::{Stdio, child, command, credentials, keyring, scheduling, syscalls, terminal, user};

/// What to run.
pub(super) struct ExecSpec<'a> {
    /// The container's.
    pub(super) id: &'a str,
    pub(super) process: &'a Process,
    pub(super) user: Option<&'a str>,
    pub(super) seccomp: Option<&'a [u8]>,
    /// Files to move instead.
    pub(super) archive: Option<&'a Archive>,
}

/// A process on its way: it waits to be told to go on, step by step.
#[derive(Debug)]
pub(crate) struct Starting {
    answers: Answers,
}

/// Begins; nobody waits for anything yet.
pub(super) fn begin(
    spec: &ExecSpec<'_>,
    pinned: &Pinned,
    cgroup: &Cgroup,
    init: i32,
    stdio: &Stdio,
) -> Result<Starting> {
    let (ours, theirs) = sync::pair()?;
    match fork(cgroup, init)? {
        syscalls::Forked::Child => {
            drop(ours);
            join_and_fork(spec, pinned, stdio, &theirs)
        }
        // The intermediate child is nobody's: the reaper collects it.
        syscalls::Forked::Parent(_) => {}
    }
    let answers = Answers::of(ours)?;
    Ok(Starting { answers })
}

impl Starting {
    /// Its pid in the guest. Until [`Starting::go`] it does nothing that could
    /// be missed.
    pub(crate) async fn pid(&self) -> Result<i32> {
        self.answers.expect_pid().await
    }

    /// Lets it become its command; gives its terminal.
    pub(crate) async fn go(self, pid: i32, process: &Process) -> Result<Option<OwnedFd>> {
        // Only now: else its first word could come before the one about its pid.
        let outcome = self.finish(pid, process).await;
        outcome.inspect_err(|_| syscalls::kill(pid))
    }

    async fn finish(&self, pid: i32, process: &Process) -> Result<Option<OwnedFd>> {
        credentials::adjust_oom_score(pid, process)?;
        self.answers.send(sync::PROCEED)?;
        let terminal = self.answers.expect_ready().await?;
        self.answers.send(sync::GO)?;
        self.answers.expect_exec().await?;
        Ok(terminal)
    }
}

/// Forks into the container's cgroup; or beside its first process when that
/// one, an init system mostly, has divided the cgroup among children: one that
/// delegates controllers holds no process itself.
fn fork(cgroup: &Cgroup, init: i32) -> Result<syscalls::Forked> {
    let forked = match syscalls::clone_into(0, Some(cgroup.fd())) {
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
            syscalls::clone_into(0, Some(cgroup.of_member(init)?.as_fd()))
        }
        forked => forked,
    };
    forked.tried(|| "fork into the container".to_owned())
}

fn join_and_fork(spec: &ExecSpec<'_>, pinned: &Pinned, stdio: &Stdio, channel: &Channel) -> ! {
    let forked = pinned.join().and_then(|()| {
        syscalls::close_others(&stdio.with(channel));
        syscalls::clone_into(libc::CLONE_PARENT as u64, None)
            .tried(|| "fork into the container".to_owned())
    });
    match forked {
        Ok(syscalls::Forked::Parent(pid)) => {
            let _ = channel.send_pid(pid);
            syscalls::exit(0)
        }
        Ok(syscalls::Forked::Child) => {
            let error = become_process(spec, stdio, channel);
            channel.fail(&error);
            syscalls::exit(1)
        }
        Err(error) => {
            channel.fail(&error);
            syscalls::exit(1)
        }
    }
}

fn become_process(spec: &ExecSpec<'_>, stdio: &Stdio, channel: &Channel) -> Error {
    match (prepare(spec, stdio, channel), spec.archive) {
        (Ok(_), Some(archive)) => move_files(archive),
        (Ok(home), None) => command::execute(spec.process, &home),
        (Err(error), _) => error,
    }
}

/// Moves files, as the process it would have become. The image may have no
/// tool for it.
fn move_files(archive: &Archive) -> ! {
    // What the agent has open is not the container's, and this process is in
    // the container's namespaces. It also tells the agent that all is well.
    syscalls::forbid_inspection();
    syscalls::close_from(3);
    let path = Path::new(&archive.path);
    let moved = if archive.extract {
        let name = Path::new(&archive.name);
        bulkhead_archive::unpack(std::io::stdin().lock(), path, name, true)
    } else {
        bulkhead_archive::pack(path, std::io::stdout().lock())
    };
    let code = match moved {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    };
    syscalls::exit(code)
}

fn prepare(spec: &ExecSpec<'_>, stdio: &Stdio, channel: &Channel) -> Result<String> {
    channel.wait(sync::PROCEED)?;
    credentials::check(spec.process)?;
    syscalls::reset_signals();
    rustix::process::setsid().tried(|| "start a session".to_owned())?;
    keyring::join(spec.id)?;
    let (identity, home) = user::resolve(spec.process, spec.user)?;
    match stdio {
        Stdio::Pipes {
            stdin,
            stdout,
            stderr,
        } => {
            child::pipes(stdin, stdout, stderr, identity.uid)?;
            channel.ready(None)?;
        }
        Stdio::Terminal => {
            let (master, slave) = terminal::open(identity.uid)?;
            channel.ready(Some(&master))?;
            drop(master);
            terminal::adopt(&slave)?;
        }
    }
    channel.wait(sync::GO)?;
    syscalls::close_on_exec_from(3);
    command::enter_cwd(spec.process.cwd())?;
    if let Some(wanted) = spec.process.exec_cpu_affinity() {
        scheduling::affinity(wanted)?;
    }
    credentials::apply(spec.process, &identity, spec.seccomp, false)?;
    Ok(home)
}

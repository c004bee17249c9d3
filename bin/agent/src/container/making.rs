//! How a container comes to be.

use std::os::fd::{AsFd, OwnedFd};

use super::cgroup::Cgroup;
use super::device_filter::DeviceFilter;
use super::error::{Error, Result};
use super::namespaces::{Pids, Pinned, Wanted};
use super::sync::{self, Answers};
use super::{Container, CreateArgs, child, credentials, pod_pids, refusal, syscalls};

/// A container whose first process sets itself up. It is given up unless it gets
/// [`ready`](Self::ready).
#[derive(Debug)]
pub(crate) struct Making {
    begun: Begun,
    devices: DeviceFilter,
    shares_pids: bool,
    answers: Answers,
}

/// What is taken back of one that is given up.
#[derive(Debug)]
struct Begun {
    /// Until it is a container.
    cgroup: Option<Cgroup>,
    pid: i32,
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(cgroup) = self.cgroup.take() {
            syscalls::kill(self.pid);
            let _ = cgroup.destroy();
        }
    }
}

impl Making {
    /// Begins; nobody waits for anything yet.
    pub(crate) fn begin(args: &CreateArgs<'_>) -> Result<Self> {
        refusal::container(args.spec)?;
        let wanted = Wanted::from_spec(args.spec)?;
        let cgroup = Cgroup::create(args.id)?;
        let forked = restrict(args, &cgroup).and_then(|devices| {
            let (pid, ours) = fork(args, &wanted, &cgroup)?;
            Ok((devices, pid, ours))
        });
        let (devices, pid, ours) = forked.inspect_err(|_| drop(cgroup.destroy()))?;
        let begun = Begun {
            cgroup: Some(cgroup),
            pid,
        };
        let answers = Answers::of(ours)?;
        wanted.write_maps(pid)?;
        if let Some(process) = args.spec.process() {
            credentials::adjust_oom_score(pid, process)?;
        }
        answers.send(sync::PROCEED)?;
        Ok(Self {
            begun,
            devices,
            shares_pids: *wanted.pids() != Pids::Own,
            answers,
        })
    }

    /// Pid of the first process in the guest.
    pub(crate) fn init_pid(&self) -> i32 {
        self.begun.pid
    }

    /// The container up to the moment before its command is executed, and its
    /// terminal.
    pub(crate) async fn ready(mut self) -> Result<(Container, Option<OwnedFd>)> {
        let terminal = self.answers.expect_ready().await?;
        let pid = self.begun.pid;
        let pinned = Pinned::open(pid)?;
        let container = Container {
            cgroup: self.begun.cgroup.take().expect("it is taken only here"),
            pid,
            pinned,
            devices: self.devices,
            shares_pids: self.shares_pids,
            waiting: Some(self.answers),
        };
        Ok((container, terminal))
    }
}

/// Sets the limits of a container that is still empty.
fn restrict(args: &CreateArgs<'_>, cgroup: &Cgroup) -> Result<DeviceFilter> {
    let linux = args.spec.linux().as_ref();
    if let Some(resources) = linux.and_then(|linux| linux.resources().as_ref()) {
        cgroup.apply(resources)?;
    }
    DeviceFilter::attach(cgroup.fd(), args.spec)
}

/// The first process's pid, and the agent's end of the talk with it.
fn fork(args: &CreateArgs<'_>, wanted: &Wanted, cgroup: &Cgroup) -> Result<(i32, OwnedFd)> {
    let (ours, theirs) = sync::pair()?;
    // Until the end of this function the agent's children are born there.
    let _inside = match (wanted.pids(), &args.pids) {
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
    match forked? {
        syscalls::Forked::Child => {
            drop(ours);
            syscalls::close_others(&args.stdio.with(&theirs));
            child::run(args, wanted, &theirs)
        }
        syscalls::Forked::Parent(pid) => Ok((pid, ours)),
    }
}

fn no_pids_of(name: &str) -> Error {
    Error::invalid(format!(
        "the container `{name}`, whose processes are to be shared, does not run"
    ))
}

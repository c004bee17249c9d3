//! What a child process gives up between fork and exec.
//!
//! Every helper of a sandbox (monitor, file server, network) is started
//! through a [`Jail`], so that the rules are the same for all: it dies with
//! its parent, keeps only the descriptors it was given, gains no privilege.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Restrictions on a child. The default only ties its life to its parent's.
#[derive(Debug, Default)]
pub struct Jail {
    inherit: Vec<OwnedFd>,
    user: Option<(u32, u32)>,
    group: Option<u32>,
    namespaces: libc::c_int,
    limits: Vec<(libc::__rlimit_resource_t, u64)>,
    no_new_privileges: bool,
    detached: bool,
}

impl Jail {
    /// A child that dies with the thread that starts it.
    pub fn new() -> Self {
        Self::default()
    }

    /// A child that outlives its parent, in a session of its own: no terminal
    /// signals reach it. setsid(2).
    pub fn detached() -> Self {
        Self {
            detached: true,
            ..Self::default()
        }
    }

    /// Hands a descriptor to the child, which sees it under the number this
    /// returns. The parent's copy closes with the jail.
    pub fn inherit(&mut self, fd: OwnedFd) -> RawFd {
        let number = fd.as_raw_fd();
        self.inherit.push(fd);
        number
    }

    /// Runs the child as this user and group, without supplementary groups but
    /// the one of [`Jail::group`].
    /// Needs `CAP_SETUID` and `CAP_SETGID`.
    pub fn user(&mut self, uid: u32, gid: u32) -> &mut Self {
        self.user = Some((uid, gid));
        self
    }

    /// Leaves the child of another user one supplementary group: that of a
    /// device it has to open.
    pub fn group(&mut self, gid: u32) -> &mut Self {
        self.group = Some(gid);
        self
    }

    /// Gives the child empty network, IPC and UTS namespaces of its own, and a
    /// mount namespace that starts as a copy and shares nothing, so that
    /// [`MountNamespace`](crate::MountNamespace) can empty it.
    /// Needs `CAP_SYS_ADMIN`. namespaces(7).
    pub fn isolate(&mut self) -> &mut Self {
        self.namespaces |= libc::CLONE_NEWNS;
        self.namespaces |= libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        self
    }

    /// The child and what it runs can never gain privileges by exec.
    /// PR_SET_NO_NEW_PRIVS(2const).
    pub fn no_new_privileges(&mut self) -> &mut Self {
        self.no_new_privileges = true;
        self
    }

    /// No core dumps: guest memory would land on the host's disk.
    /// getrlimit(2).
    pub fn no_core_dumps(&mut self) -> &mut Self {
        self.limits.push((libc::RLIMIT_CORE, 0));
        self
    }

    /// No core dumps, and at most `files` open files. getrlimit(2).
    pub fn limits(&mut self, files: u64) -> &mut Self {
        self.limits.push((libc::RLIMIT_NOFILE, files));
        self.no_core_dumps()
    }

    /// Puts the restrictions on a command. The returned guard keeps the
    /// inherited descriptors open and has to live until the spawn.
    #[must_use = "the descriptors close when the guard is dropped"]
    pub fn apply(self, command: &mut Command) -> Inherited {
        let parent = rustix::process::getpid().as_raw_nonzero().get();
        let numbers: Vec<RawFd> = self.inherit.iter().map(AsRawFd::as_raw_fd).collect();
        let Self {
            inherit,
            user,
            group,
            namespaces,
            limits,
            no_new_privileges,
            detached,
        } = self;
        let setup = move || {
            restrict(&numbers, namespaces, &limits)?;
            if let Some((uid, gid)) = user {
                become_user(uid, gid, group)?;
            }
            if no_new_privileges {
                prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
            }
            if detached {
                // SAFETY: setsid takes nothing; a freshly forked child leads
                // no process group, so it cannot fail.
                return check(unsafe { libc::setsid() });
            }
            // After the change of user: that change clears the setting.
            prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)?;
            // The parent may have died before the line above.
            // SAFETY: getppid has no arguments and cannot fail.
            if unsafe { libc::getppid() } != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure only makes system calls
        // on values captured by copy; it allocates nothing and takes no lock
        // (the vectors are only read), as fork in a threaded process demands.
        unsafe { command.pre_exec(setup) };
        Inherited { _fds: inherit }
    }
}

/// Keeps inherited descriptors open until the child was spawned.
#[derive(Debug)]
pub struct Inherited {
    _fds: Vec<OwnedFd>,
}

fn restrict(
    keep: &[RawFd],
    namespaces: libc::c_int,
    limits: &[(libc::__rlimit_resource_t, u64)],
) -> io::Result<()> {
    for &fd in keep {
        // SAFETY: F_SETFD on a descriptor the guard keeps open; clears
        // close-on-exec in the child only, which has its own table.
        check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })?;
    }
    for &(resource, value) in limits {
        let limit = libc::rlimit {
            rlim_cur: value,
            rlim_max: value,
        };
        // SAFETY: `limit` is a live, initialised struct for the call.
        check(unsafe { libc::setrlimit(resource, &limit) })?;
    }
    if namespaces != 0 {
        // SAFETY: unshare takes flags only; the child is single-threaded.
        check(unsafe { libc::unshare(namespaces) })?;
    }
    if namespaces & libc::CLONE_NEWNS != 0 {
        let (none, flags) = (std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
        // SAFETY: a change of propagation reads nothing but the target, a
        // constant; it concerns the child's own namespace.
        check(unsafe { libc::mount(none, c"/".as_ptr(), none, flags, std::ptr::null()) })?;
    }
    Ok(())
}

fn become_user(uid: u32, gid: u32, group: Option<u32>) -> io::Result<()> {
    let groups = group.as_slice();
    // SAFETY: the pointer is to as many live numbers as the count says; of a
    // count of zero it is ignored.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    // SAFETY: plain integers; group first, while the right to change it lasts.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: plain integers.
    check(unsafe { libc::setresuid(uid, uid, uid) })
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take one integer and no pointer.
    check(unsafe { libc::prctl(option, value, 0, 0, 0) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::process::Stdio;

    #[test]
    fn the_child_sees_only_what_it_was_given() {
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut jail = Jail::new();
        let number = jail.inherit(theirs.into());
        jail.no_new_privileges().limits(64);
        // dash takes one digit for a descriptor, and tests beside this one may have ten.
        let mut command = Command::new("/bin/bash");
        command.arg("-c").arg(format!(
            "read line <&{number}; echo got $line >&{number}; ulimit -n >&{number}"
        ));
        let guard = jail.apply(&mut command);
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        drop(guard);
        drop(command);
        ours.write_all(b"hello\n").unwrap();
        assert!(child.wait().unwrap().success());
        let mut answer = String::new();
        ours.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "got hello\n64\n");
    }

    #[test]
    fn the_child_cannot_gain_privileges() {
        let mut command = Command::new("/bin/grep");
        command.arg("NoNewPrivs:").arg("/proc/self/status");
        let mut jail = Jail::new();
        jail.no_new_privileges();
        let guard = jail.apply(&mut command);
        let output = command.output().unwrap();
        drop(guard);
        assert_eq!(
            String::from_utf8(output.stdout).unwrap().trim(),
            "NoNewPrivs:\t1"
        );
    }

    #[test]
    fn the_child_dies_with_the_thread_that_started_it() {
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let starter = std::thread::spawn(move || {
            let mut jail = Jail::new();
            jail.inherit(theirs.into());
            let mut command = Command::new("/bin/sleep");
            command.arg("600");
            let guard = jail.apply(&mut command);
            let child = command.spawn().unwrap();
            drop(guard);
            child
        });
        let mut child = starter.join().unwrap();
        // End of file: nobody holds the other end any more.
        ours.read_to_end(&mut Vec::new()).unwrap();
        assert!(!child.wait().unwrap().success());
    }
}

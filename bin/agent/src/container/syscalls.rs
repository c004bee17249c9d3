//! System calls rustix lacks. All `unsafe` of the agent is here.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::error::{Error, Result, Tried};

/// Which side of a fork this is.
pub(super) enum Forked {
    Child,
    Parent(i32),
}

/// clone3(2) without a stack of its own: a fork with namespaces, into a
/// cgroup.
pub(super) fn clone_into(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> std::io::Result<Forked> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // SAFETY: clone_args is plain data; all zeroes is its valid default.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    // With CLONE_PARENT the signal is the parent's own, and none may be given.
    if flags & libc::CLONE_PARENT as u64 == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` lives through the call and asks for no shared memory, so
    // the child gets a copy of this process. The process has one thread (the
    // agent's runtime makes no others), so no lock is held by a thread the
    // child lacks, and it may go on as ordinary Rust.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(std::io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid as i32)),
    }
}

/// Closes every descriptor from a number on. close_range(2).
pub(super) fn close_from(first: u32) {
    // SAFETY: only in a forked child that goes on to end by `exit`, so that no
    // owner of one of these descriptors ever uses or closes it.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Keeps other processes from reading this one's memory and descriptors.
/// PR_SET_DUMPABLE(2const).
pub(super) fn forbid_inspection() {
    // SAFETY: plain integers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

/// Ends a child without running anything of the agent's.
pub(super) fn exit(code: i32) -> ! {
    // SAFETY: _exit only ends the process.
    unsafe { libc::_exit(code) }
}

/// kill(2) for a pid that is a child's, or in a child's cgroup.
pub(super) fn signal(pid: i32, signal: i32) -> bool {
    // SAFETY: kill takes two integers; a positive pid names one process.
    pid > 0 && unsafe { libc::kill(pid, signal) } == 0
}

/// SIGKILL.
pub(super) fn kill(pid: i32) {
    signal(pid, libc::SIGKILL);
}

/// Does nothing any more. Children that are orphaned to it vanish when they
/// end: signal(7), SIGCHLD ignored.
pub(super) fn sleep_forever() -> ! {
    loop {
        // SAFETY: an ignored signal has no handler that could run; pause only
        // waits.
        unsafe {
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
            libc::pause();
        }
    }
}

/// setns(2).
pub(super) fn setns(fd: BorrowedFd<'_>, kind: i32) -> std::io::Result<()> {
    // SAFETY: a borrowed descriptor and an integer.
    check(unsafe { libc::setns(fd.as_raw_fd(), kind) })
}

/// unshare(2).
pub(super) fn unshare(flags: i32) -> std::io::Result<()> {
    // SAFETY: an integer; the caller is a single-threaded child.
    check(unsafe { libc::unshare(flags) })
}

/// seccomp filter of this thread. prctl(2), PR_SET_SECCOMP.
pub(super) fn load_seccomp(program: &[u8]) -> Result<()> {
    const SIZE: usize = size_of::<libc::sock_filter>();
    let count = program.len() / SIZE;
    if count == 0 || !program.len().is_multiple_of(SIZE) || count > usize::from(u16::MAX) {
        return Err(Error::invalid("the seccomp program has a wrong length"));
    }
    let mut filter: Vec<libc::sock_filter> = Vec::with_capacity(count);
    for chunk in program.chunks_exact(SIZE) {
        filter.push(libc::sock_filter {
            code: u16::from_ne_bytes([chunk[0], chunk[1]]),
            jt: chunk[2],
            jf: chunk[3],
            k: u32::from_ne_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
        });
    }
    let program = libc::sock_fprog {
        len: count as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: `program` and the filter it points to live through the call;
    // the kernel copies and checks them.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) };
    check(result).tried(|| "load the seccomp filter".to_owned())
}

/// A prctl(2) of integers only.
pub(super) fn prctl(option: i32, two: u64, three: u64) -> std::io::Result<()> {
    // SAFETY: the options used by callers take integers, no pointers.
    check(unsafe { libc::prctl(option, two, three, 0, 0) })
}

/// Capability sets of this thread: capset(2), version 3.
pub(super) fn capset(effective: u64, permitted: u64, inheritable: u64) -> std::io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let half = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: header and the two data structs version 3 wants live through
    // the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) };
    check(result as i32)
}

/// setgroups(2), setresgid(2), setresuid(2).
pub(super) fn become_user(uid: u32, gid: u32, groups: Option<&[u32]>) -> std::io::Result<()> {
    if let Some(groups) = groups {
        // SAFETY: pointer and length are one slice's.
        check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    }
    // SAFETY: integers.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: integers.
    check(unsafe { libc::setresuid(uid, uid, uid) })
}

/// setrlimit(2).
pub(super) fn setrlimit(resource: u32, soft: u64, hard: u64) -> std::io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the struct lives through the call.
    check(unsafe { libc::setrlimit(resource, &limit) })
}

/// execve(2). Returns only the error.
pub(super) fn execve(path: &CStr, args: &[&CStr], env: &[&CStr]) -> std::io::Error {
    let pointers = |list: &[&CStr]| -> Vec<*const libc::c_char> {
        list.iter()
            .map(|text| text.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: NULL-terminated arrays of NUL-terminated strings that live
    // through the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    std::io::Error::last_os_error()
}

/// close_range(2) from `first` up, by the close-on-exec flag.
pub(super) fn close_on_exec_from(first: u32) {
    // SAFETY: integers; only flags of this process's table change.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
    }
}

/// A signal mask of nothing, and default dispositions: what a command expects
/// to be started with. Rust ignores SIGPIPE.
pub(super) fn reset_signals() {
    // SAFETY: sigset_t is plain data, filled by sigemptyset before its use;
    // SIG_DFL is a valid disposition for every signal that can have one, and
    // the kernel refuses the others.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
        for number in 1..=64 {
            libc::signal(number, libc::SIG_DFL);
        }
    }
}

/// TIOCSCTTY: makes the terminal the controlling one of a new session.
pub(super) fn set_controlling_terminal(fd: BorrowedFd<'_>) -> std::io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) })
}

/// Makes a descriptor one of the three standard ones.
pub(super) fn make_standard(fd: BorrowedFd<'_>, number: i32) -> std::io::Result<()> {
    // SAFETY: 0, 1 and 2 of a child about to execute belong to nobody in it;
    // dup2 clears close-on-exec on the copy.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) })
}

fn check(result: i32) -> std::io::Result<()> {
    if result == -1 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// mount_setattr(2) on an open mount.
pub(super) fn mount_setattr(
    mount: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    propagation: u64,
    recursive: bool,
) -> std::io::Result<()> {
    // struct mount_attr, version 0: four u64.
    let attributes = [set, clear, propagation, 0u64];
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is empty and NUL-terminated, the block of attributes
    // lives through the call and its length is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    check(result as i32)
}

/// struct sched_attr, its first version; linux/sched/types.h.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct SchedulingAttributes {
    pub(super) size: u32,
    pub(super) policy: u32,
    pub(super) flags: u64,
    pub(super) nice: i32,
    pub(super) priority: u32,
    pub(super) runtime: u64,
    pub(super) deadline: u64,
    pub(super) period: u64,
}

impl SchedulingAttributes {
    pub(super) const SIZE: u32 = size_of::<Self>() as u32;
}

/// sched_setattr(2) for this thread.
pub(super) fn sched_setattr(attributes: &SchedulingAttributes) -> std::io::Result<()> {
    // SAFETY: the struct lives through the call and tells its own size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, attributes, 0) } as i32)
}

/// sched_getattr(2) of this thread.
#[cfg(test)]
pub(super) fn sched_getattr() -> std::io::Result<SchedulingAttributes> {
    let mut attributes = SchedulingAttributes::default();
    let size = SchedulingAttributes::SIZE;
    // SAFETY: the struct lives through the call, which fills as much as told.
    check(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &mut attributes, size, 0) } as i32)?;
    Ok(attributes)
}

/// IOPRIO_WHO_PROCESS; zero is then this thread.
const WHO_PROCESS: i32 = 1;

/// ioprio_set(2) for this thread.
pub(super) fn ioprio_set(value: i32) -> std::io::Result<()> {
    // SAFETY: integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) } as i32)
}

/// ioprio_get(2) of this thread.
#[cfg(test)]
pub(super) fn ioprio_get() -> std::io::Result<i32> {
    // SAFETY: integers.
    let value = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) } as i32;
    check(value).map(|()| value)
}

/// personality(2) of this thread.
pub(super) fn personality(domain: i32) -> std::io::Result<()> {
    // SAFETY: an integer; a domain without flags changes no memory.
    check(unsafe { libc::personality(domain as libc::c_ulong) })
}

/// Makes or joins the session keyring of this name. keyctl(2),
/// KEYCTL_JOIN_SESSION_KEYRING; gives its serial number.
pub(super) fn join_session_keyring(name: &CStr) -> std::io::Result<i32> {
    const JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: the name is NUL-terminated and lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    check(result as i32).map(|()| result as i32)
}

/// Sets who may do what with a key. keyctl(2), KEYCTL_SETPERM.
pub(super) fn set_key_permissions(key: i32, permissions: u32) -> std::io::Result<()> {
    const SETPERM: i32 = 5;
    // SAFETY: integers.
    check(unsafe { libc::syscall(libc::SYS_keyctl, SETPERM, key, permissions) } as i32)
}

/// Closes every descriptor but the standard three and these. close_range(2).
pub(super) fn close_others(keep: &[BorrowedFd<'_>]) {
    let mut numbers: Vec<u32> = keep
        .iter()
        .map(|fd| fd.as_raw_fd().cast_unsigned())
        .filter(|number| *number > 2)
        .collect();
    numbers.sort_unstable();
    let mut first = 3;
    for number in numbers.into_iter().chain([u32::MAX]) {
        let last = if number == u32::MAX {
            number
        } else {
            number - 1
        };
        if first <= last {
            // SAFETY: only in a forked child, which ends by execve or `exit`
            // and uses no descriptor but those it names here: no owner of one
            // that is closed ever uses or closes it.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
        first = number.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::process::CommandExt;

    #[test]
    fn a_child_keeps_only_what_it_names() {
        // Numbers no shell uses, and without close-on-exec, or execve would
        // close them anyway.
        let open = |_| {
            let file = std::fs::File::open("/dev/null").unwrap();
            let fd = rustix::io::fcntl_dupfd_cloexec(&file, 200).unwrap();
            rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).unwrap();
            fd
        };
        let files = [0, 1, 2].map(open);
        let number = files[1].as_raw_fd();
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", "echo /proc/$$/fd/*"]);
        let close = move || {
            // SAFETY: the number is that of a file open in the parent, whose
            // copies the child has; nothing is closed through it.
            close_others(&[unsafe { BorrowedFd::borrow_raw(number) }]);
            Ok(())
        };
        // SAFETY: between fork and exec only close_range is called; the vector
        // it fills is small and this test's child is alone in its process.
        unsafe { command.pre_exec(close) };
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let has = |fd: &std::os::fd::OwnedFd| {
            let name = format!("/fd/{}", fd.as_fd().as_raw_fd());
            text.split_whitespace().any(|path| path.ends_with(&name))
        };
        assert!(has(&files[1]), "{text}");
        assert!(!has(&files[0]) && !has(&files[2]), "{text}");
    }
}

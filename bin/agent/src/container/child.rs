//! The life of a container's first process before its command.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::OFlags;

use super::accounts::Identity;
use super::error::{Error, Result, Tried};
use super::namespaces::Wanted;
use super::rootfs::Root;
use super::sync::{self, Channel};
use super::{
    CreateArgs, Stdio, command, credentials, keyring, scheduling, syscalls, terminal, user,
};

/// Becomes the container; ends the process when that fails.
pub(super) fn run(args: &CreateArgs<'_>, wanted: &Wanted, channel: &Channel) -> ! {
    let error = match become_container(args, wanted, channel) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    channel.fail(&error);
    syscalls::exit(1)
}

/// Cannot be made: a function that returns it only fails.
enum Never {}

fn become_container(args: &CreateArgs<'_>, wanted: &Wanted, channel: &Channel) -> Result<Never> {
    let spec = args.spec;
    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| Error::invalid("no process"))?;
    credentials::check(process)?;
    syscalls::reset_signals();
    channel.wait(sync::PROCEED)?;
    wanted.enter()?;
    rustix::process::setsid().tried(|| "start a session".to_owned())?;
    let mapped = wanted.has(LinuxNamespaceType::User);
    if mapped {
        syscalls::become_user(0, 0, Some(&[]))
            .tried(|| "become root of the namespace".to_owned())?;
    }
    keyring::make(args.id, mapped)?;
    set_up_root(spec, args.rootfs, wanted)?;
    let (identity, home) = user::resolve(process, args.user)?;
    command::check(process)?;
    let slave = set_up_stdio(&args.stdio, &identity, channel)?;
    channel.wait(sync::GO)?;

    if let Some(slave) = &slave {
        terminal::adopt(slave)?;
    }
    syscalls::close_on_exec_from(3);
    command::enter_cwd(process.cwd())?;
    let linux = spec.linux().as_ref();
    if let Some(wanted) = linux.and_then(|linux| linux.personality().as_ref()) {
        scheduling::personality(wanted)?;
    }
    credentials::apply(process, &identity, args.seccomp, false)?;
    Err(command::execute(process, &home))
}

fn set_up_root(spec: &Spec, rootfs: &Path, wanted: &Wanted) -> Result<()> {
    let root = Root::enter(rootfs)?;
    root.mount_all(spec)?;
    let linux = spec
        .linux()
        .as_ref()
        .ok_or_else(|| Error::invalid("no linux part"))?;
    if wanted.has(LinuxNamespaceType::Uts) {
        if let Some(name) = spec.hostname() {
            rustix::system::sethostname(name.as_bytes())
                .tried(|| format!("set the host name `{name}`"))?;
        }
        if let Some(name) = spec.domainname() {
            rustix::system::setdomainname(name.as_bytes())
                .tried(|| format!("set the domain name `{name}`"))?;
        }
    }
    if let Some(list) = linux.sysctl() {
        sysctls(&root, list)?;
    }
    for path in linux.readonly_paths().iter().flatten() {
        root.make_read_only(Path::new(path))?;
    }
    for path in linux.masked_paths().iter().flatten() {
        root.mask(Path::new(path))?;
    }
    let read_only = spec
        .root()
        .as_ref()
        .and_then(|root| root.readonly())
        .unwrap_or(false);
    root.pivot(linux.rootfs_propagation().as_deref(), read_only)
}

/// Writes kernel parameters through the container's own /proc: only those of
/// its namespaces show there as its own.
fn sysctls(root: &Root, list: &HashMap<String, String>) -> Result<()> {
    for (name, value) in list {
        let what = || format!("set the kernel parameter `{name}`");
        // Slashes separate where dots may be part of a name: "net/ipv4/…".
        let relative = if name.contains('/') {
            name.clone()
        } else {
            name.replace('.', "/")
        };
        if relative
            .split('/')
            .any(|part| part.is_empty() || part == "..")
        {
            return Err(Error::invalid(format!("`{name}` is no kernel parameter")));
        }
        let path = Path::new("/proc/sys").join(relative);
        let file = root.open(&path, OFlags::WRONLY).tried(what)?;
        std::fs::File::from(file)
            .write_all(value.as_bytes())
            .tried(what)?;
    }
    Ok(())
}

/// Connects stdin, stdout and stderr, and tells the agent that everything
/// that can fail before the command has not. Gives the terminal, if it is
/// one.
fn set_up_stdio(stdio: &Stdio, identity: &Identity, channel: &Channel) -> Result<Option<OwnedFd>> {
    match stdio {
        Stdio::Pipes {
            stdin,
            stdout,
            stderr,
        } => {
            pipes(stdin, stdout, stderr, identity.uid)?;
            channel.ready(None)?;
            Ok(None)
        }
        Stdio::Terminal => {
            let (master, slave) = terminal::open(identity.uid)?;
            terminal::bind_console(&slave)?;
            channel.ready(Some(&master))?;
            Ok(Some(slave))
        }
    }
}

/// Puts pipes where a command expects them, owned by its user so that it may
/// open /dev/stdout again.
pub(super) fn pipes(stdin: &OwnedFd, stdout: &OwnedFd, stderr: &OwnedFd, uid: u32) -> Result<()> {
    let what = || "connect standard input and output".to_owned();
    for (fd, number) in [(stdin, 0), (stdout, 1), (stderr, 2)] {
        let owner = rustix::fs::Uid::from_raw(uid);
        let stat = rustix::fs::fstat(fd).tried(what)?;
        // /dev/null is everybody's; a pipe is this process's own.
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo {
            let _ = rustix::fs::fchown(fd, Some(owner), None);
        }
        syscalls::make_standard(fd.as_fd(), number).tried(what)?;
    }
    Ok(())
}

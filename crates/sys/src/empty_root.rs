//! Taking the files of a host from a process that has opened what it needs.

use std::fs::File;
use std::io;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use rustix::process::{chdir, pivot_root};

use crate::namespaces;

/// A directory every Linux has, for a moment the place of the new root.
const PLACE: &str = "/proc";

/// The mount namespace of a child, held by descriptor.
#[derive(Debug)]
pub struct MountNamespace(File);

impl MountNamespace {
    /// That of a child that was not waited for, and that has one of its own.
    ///
    /// # Errors
    /// `ENOENT` when the process is gone; another where its namespace is the
    /// caller's.
    pub fn of_child(pid: u32) -> io::Result<Self> {
        let path = format!("/proc/{pid}/ns/mnt");
        let namespace = File::open(&path)?;
        if std::fs::read_link(&path)? == std::fs::read_link("/proc/thread-self/ns/mnt")? {
            return Err(io::Error::other(
                "the process has no mount namespace of its own",
            ));
        }
        Ok(Self(namespace))
    }

    /// Gives the processes of the namespace, in which nothing may be shared, an
    /// empty read-only root: no path leads anywhere any more, and what they
    /// have open or mapped stays. pivot_root(2) changes the root and working
    /// directory of each that has the old root.
    ///
    /// Works on a thread of its own, which ends with the call.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` where the host's root cannot
    /// be pivoted from (an initramfs).
    pub fn empty_root(self) -> io::Result<()> {
        let thread = std::thread::Builder::new().name("empty-root".to_owned());
        let thread = thread.spawn(move || {
            namespaces::enter_mounts(&self.0)?;
            replace_root()
        })?;
        let outcome = thread.join();
        outcome.unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    }
}

fn replace_root() -> io::Result<()> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in [("size", "4k"), ("nr_inodes", "1"), ("mode", "0555")] {
        fsconfig_set_string(&context, name, value)?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&root, "", CWD, PLACE, flags)?;
    chdir(PLACE)?;
    pivot_root(".", ".")?;
    // The old root lies on the new one now, with all that is mounted below it.
    Ok(unmount(".", UnmountFlags::DETACH)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jail::Jail;
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    #[test]
    fn a_running_process_loses_every_path_and_keeps_what_is_open() {
        let mut jail = Jail::new();
        jail.user(65534, 65534).isolate();
        let mut command = Command::new("/bin/sh");
        let script = "exec 3< /etc/passwd; echo ready; read go; \
                      for file in /* /proc/* /etc/*; do test -e $file && echo left $file; done; \
                      pwd; read line <&3 && echo $line";
        command.args(["-c", script]).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let guard = jail.apply(&mut command);
        let mut child = command.spawn().expect("this test needs root");
        drop(guard);
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(out.next().unwrap().unwrap(), "ready");
        let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let namespace = MountNamespace::of_child(child.id()).unwrap();
        namespace.empty_root().unwrap();
        let seen = std::fs::read_dir(format!("/proc/{}/root/", child.id())).unwrap();
        assert_eq!(seen.count(), 0);
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", child.id())).unwrap();
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        assert_eq!(
            std::fs::read_to_string("/proc/self/mountinfo").unwrap(),
            before
        );
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let rest: Vec<String> = out.map(Result::unwrap).collect();
        assert_eq!(rest[0], "/");
        assert!(rest[1].starts_with("root:"), "{rest:?}");
        child.wait().unwrap();
    }

    #[test]
    fn the_callers_own_root_is_never_touched() {
        assert!(MountNamespace::of_child(std::process::id()).is_err());
    }
}

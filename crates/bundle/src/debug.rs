//! The spec of a process in the guest outside of any container.

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use crate::Refusal;

/// Such a spec.
#[derive(Debug)]
pub struct Debug {
    /// For the agent.
    pub spec: Spec,
    /// Which of its mounts, from 0, is the busybox, where one is asked for.
    pub busybox: usize,
}

/// Makes the links a busybox is called by, and goes on as what was asked for.
const INSTALL: &str = "/bin/busybox --install -s /bin && exec \"$@\"";

const CAPABILITIES: [&str; 41] = [
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_AUDIT_WRITE",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_KILL",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYSLOG",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_CHROOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_WAKE_ALARM",
];

/// A process that shares every namespace with the agent but the mounts: its
/// programs are its own. An empty `command` is a shell.
///
/// # Errors
/// When the command makes no spec.
pub fn debug(command: &[String], terminal: bool, busybox: bool) -> Result<Debug, Refusal> {
    let shell = ["/bin/sh".to_owned()];
    let command = match command {
        [] => shell.as_slice(),
        command => command,
    };
    let install = ["/bin/busybox", "sh", "-c", INSTALL, "debug"];
    let args = install.iter().filter(|_| busybox).copied();
    let args: Vec<&str> = args.chain(command.iter().map(String::as_str)).collect();
    let mut mounts = mounts();
    let place = mounts.len();
    if busybox {
        mounts.push(json!({
            "destination": "/bin/busybox", "type": "bind", "source": "busybox",
            "options": ["bind", "ro"],
        }));
    }
    let all = CAPABILITIES.as_slice();
    let spec = json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {
            "args": args, "cwd": "/", "terminal": terminal,
            "user": {"uid": 0, "gid": 0},
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", "HOME=/"],
            "capabilities": {
                "bounding": all, "effective": all, "permitted": all,
            },
        },
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": "mount"}],
            "resources": {"devices": [{"allow": true, "access": "rwm"}]},
        },
    });
    let spec = serde_json::from_value(spec)
        .map_err(|error| Refusal::new(format!("the command makes no process: {error}")))?;
    Ok(Debug {
        spec,
        busybox: place,
    })
}

fn mounts() -> Vec<Value> {
    let mount = |at: &str, kind: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
    vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev"]),
        mount("/sys/fs/cgroup", "cgroup2", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
            ],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busybox_is_installed_before_the_command_runs() {
        let own = debug(&["ps".to_owned(), "-a b".to_owned()], true, true).unwrap();
        let process = own.spec.process().clone().unwrap();
        let args = process.args().clone().unwrap();
        assert_eq!(args[5..], ["ps", "-a b"]);
        let mount = &own.spec.mounts().as_ref().unwrap()[own.busybox];
        assert_eq!(mount.destination().to_str(), Some("/bin/busybox"));
        let plain = debug(&[], false, false).unwrap().spec;
        let args = plain.process().clone().unwrap().args().clone();
        assert_eq!(args.unwrap(), ["/bin/sh"]);
        // The processes it is to look at are in the agent's namespace.
        assert_eq!(crate::namespaces(&plain).len(), 1);
    }
}

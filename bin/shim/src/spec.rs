//! What a bundle's spec says, and what of it a guest can be told.
//!
//! A spec is written for a container beside its host: it names namespaces,
//! devices and directories of the host. [`adapt`] keeps what has a meaning in
//! the guest, turns host directories into shares, and refuses the rest.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use bulkhead_config::Config;
use bulkhead_protocol::{SHARED_MEMORY, SHARED_PIDS, SPEC_LIMIT, name};
use bulkhead_status::Kubernetes;
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceType, LinuxNamespace, LinuxNamespaceType, Mount, Spec,
};

use crate::failure::{Failure, Outcome};

const MIB: u64 = 1 << 20;

/// What the smallest machine has for its containers, MiB.
const LEAST_ROOM_MIB: u64 = 64;

/// Keys of one fact in containerd's and CRI-O's annotations.
/// containerd's pkg/cri/annotations, CRI-O's pkg/annotations.
const CONTAINER_TYPE: [&str; 2] = [
    "io.kubernetes.cri.container-type",
    "io.kubernetes.cri-o.ContainerType",
];
const SANDBOX_ID: [&str; 2] = [
    "io.kubernetes.cri.sandbox-id",
    "io.kubernetes.cri-o.SandboxID",
];

/// Names in the cluster.
const POD_NAME: [&str; 2] = [
    "io.kubernetes.cri.sandbox-name",
    "io.kubernetes.cri-o.KubeName",
];
const POD_NAMESPACE: [&str; 2] = [
    "io.kubernetes.cri.sandbox-namespace",
    "io.kubernetes.cri-o.Namespace",
];
const POD_UID: [&str; 2] = ["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"];
const CONTAINER_NAME: [&str; 2] = [
    "io.kubernetes.cri.container-name",
    "io.kubernetes.container.name",
];

/// Longest name kept, characters: of a subdomain, RFC 1123.
const NAME_LIMIT: usize = 253;

/// The pod's limits as containerd tells them of the sandbox.
const SANDBOX_MEMORY: &str = "io.kubernetes.cri.sandbox-memory";
const SANDBOX_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
const SANDBOX_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";

/// Why a spec could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the spec `{}` cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the spec `{}` is no OCI runtime spec", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the annotation that says which pod the container is of has no valid id: {0}")]
    Pod(String),
}

/// Reads `config.json` of a bundle.
pub(crate) fn read(bundle: &Path) -> Result<Spec, ReadError> {
    let path = bundle.join("config.json");
    let mut bytes = Vec::new();
    let outcome = std::fs::File::open(&path)
        .and_then(|file| file.take(SPEC_LIMIT as u64).read_to_end(&mut bytes));
    match outcome {
        Ok(_) => serde_json::from_slice(&bytes).map_err(|source| ReadError::Parse { path, source }),
        Err(source) => Err(ReadError::Read { path, source }),
    }
}

/// What a container is in its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The pod itself: the machine, no process.
    Pod,
    /// One of a pod's containers.
    Member {
        /// The pod's id.
        pod: String,
    },
    /// A container in a machine of its own, as `ctr run` makes it.
    Single,
}

fn annotation<'a>(spec: &'a Spec, keys: &[&str]) -> Option<&'a str> {
    let annotations = spec.annotations().as_ref()?;
    keys.iter()
        .find_map(|key| annotations.get(*key))
        .map(String::as_str)
}

/// Tells a pod from a container.
pub(crate) fn kind(spec: &Spec) -> Result<Kind, ReadError> {
    match annotation(spec, &CONTAINER_TYPE) {
        Some("sandbox") => Ok(Kind::Pod),
        Some("container") => {
            let pod = annotation(spec, &SANDBOX_ID).unwrap_or_default();
            // It becomes a part of a path.
            name::check(pod).map_err(|error| ReadError::Pod(error.to_string()))?;
            Ok(Kind::Member {
                pod: pod.to_owned(),
            })
        }
        _ => Ok(Kind::Single),
    }
}

fn short(spec: &Spec, keys: &[&str]) -> Option<String> {
    annotation(spec, keys).map(|text| text.chars().take(NAME_LIMIT).collect())
}

/// Whose pod it is in a cluster.
pub(crate) fn kubernetes(spec: &Spec) -> Option<Kubernetes> {
    Some(Kubernetes {
        name: short(spec, &POD_NAME)?,
        namespace: short(spec, &POD_NAMESPACE).unwrap_or_default(),
        uid: short(spec, &POD_UID).unwrap_or_default(),
    })
}

/// A container's name in its pod.
pub(crate) fn container_name(spec: &Spec) -> Option<String> {
    short(spec, &CONTAINER_NAME)
}

/// How large the machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) vcpus: u32,
    /// Bytes, a multiple of 1 MiB.
    pub(crate) memory: u64,
}

/// The size the pod's limits ask for: its memory limit and what the guest
/// itself needs; as many vCPUs as its CPU limit can fill. Never more memory
/// than the pod's control group has `room` for, bytes, beside what the host
/// needs to run the machine: the monitor would be killed for it.
pub(crate) fn size(spec: &Spec, config: &Config, room: Option<u64>) -> Outcome<Size> {
    let number = |key: &str| annotation(spec, &[key]).and_then(|text| text.parse::<i64>().ok());
    let resources = spec.linux().as_ref().and_then(|l| l.resources().as_ref());
    let memory = resources.and_then(|r| r.memory().as_ref());
    let own_memory = memory.and_then(|memory| memory.limit());
    let cpu = resources.and_then(|r| r.cpu().as_ref());
    let limit = number(SANDBOX_MEMORY)
        .filter(|bytes| *bytes > 0)
        .or(own_memory.filter(|bytes| *bytes > 0));
    let memory = match limit.and_then(|bytes| u64::try_from(bytes).ok()) {
        Some(bytes) => bytes.div_ceil(MIB) + config.guest_overhead_mib,
        None => config.memory_mib,
    };
    let quota = number(SANDBOX_QUOTA)
        .or_else(|| cpu.and_then(|cpu| cpu.quota()))
        .filter(|quota| *quota > 0);
    let period = number(SANDBOX_PERIOD)
        .or_else(|| cpu.and_then(|cpu| cpu.period()).map(u64::cast_signed))
        .filter(|period| *period > 0)
        .unwrap_or(100_000);
    let host = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let vcpus = match quota {
        // More than the host has would only wait for each other.
        Some(quota) => (quota as u64).div_ceil(period as u64).clamp(1, host) as u32,
        None => config.vcpus,
    };
    let least = config.guest_overhead_mib + LEAST_ROOM_MIB;
    let room = room.map(|bytes| (bytes / MIB).saturating_sub(config.host_overhead_mib));
    if let Some(room) = room.filter(|room| *room < least) {
        return Err(Failure::invalid(format!(
            "the pod's control group leaves {room} MiB for the machine, which needs {least}: \
             raise the pod's memory limit, or let the RuntimeClass declare the overhead of {} MiB",
            config.guest_overhead_mib + config.host_overhead_mib
        )));
    }
    Ok(Size {
        vcpus,
        memory: memory.max(least).min(room.unwrap_or(u64::MAX)) * MIB,
    })
}

fn namespaces(spec: &Spec) -> &[LinuxNamespace] {
    let linux = spec.linux().as_ref();
    linux
        .and_then(|linux| linux.namespaces().as_deref())
        .unwrap_or(&[])
}

fn namespace(spec: &Spec, kind: LinuxNamespaceType) -> Option<&LinuxNamespace> {
    namespaces(spec).iter().find(|own| own.typ() == kind)
}

/// The network namespace to join; none: the pod has no network.
pub(crate) fn network(spec: &Spec) -> Option<PathBuf> {
    namespace(spec, LinuxNamespaceType::Network)?.path().clone()
}

/// The host's control group the pod is to live in.
pub(crate) fn cgroup(spec: &Spec) -> Option<String> {
    let path = spec.linux().as_ref()?.cgroups_path().as_ref()?;
    let path = path.to_str()?;
    (!path.is_empty()).then(|| path.to_owned())
}

/// Refuses what would need the host's own namespaces.
pub(crate) fn refuse_host(spec: &Spec) -> Outcome<()> {
    let demands = [
        (LinuxNamespaceType::Network, "hostNetwork"),
        (LinuxNamespaceType::Pid, "hostPID"),
        (LinuxNamespaceType::Ipc, "hostIPC"),
    ];
    for (kind, name) in demands {
        if namespace(spec, kind).is_none() {
            return Err(Failure::invalid(format!(
                "{name} is not possible with this runtime class: the pod has a kernel of its own; \
                 leave {name} out, or choose another runtime class"
            )));
        }
    }
    Ok(())
}

/// Kernel settings of the pod, which its containers share.
pub(crate) fn sysctls(spec: &Spec) -> HashMap<String, String> {
    let linux = spec.linux().as_ref();
    linux
        .and_then(|linux| linux.sysctl().clone())
        .unwrap_or_default()
}

/// A directory or file of the host a container is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bind {
    /// Which mount of the spec, from 0.
    pub(crate) mount: usize,
    pub(crate) source: PathBuf,
    pub(crate) read_only: bool,
}

/// A spec for the guest.
#[derive(Debug)]
pub(crate) struct Adapted {
    pub(crate) spec: Spec,
    pub(crate) binds: Vec<Bind>,
}

/// Does a container's adapted spec ask for the pod's process namespace?
pub(crate) fn shares_pids(spec: &Spec) -> bool {
    namespace(spec, LinuxNamespaceType::Pid).is_some_and(|own| own.path().is_some())
}

/// Makes a container's spec one for the guest. `sysctls` are the pod's.
pub(crate) fn adapt(mut spec: Spec, sysctls: &HashMap<String, String>) -> Outcome<Adapted> {
    refuse_hooks(&spec)?;
    let binds = binds(&mut spec)?;
    let Some(mut linux) = spec.linux().clone() else {
        return Err(Failure::invalid("the spec has no `linux` part"));
    };
    linux.set_namespaces(Some(guest_namespaces(&spec)?));
    linux.set_devices(Some(devices(&spec)?));
    linux.set_cgroups_path(None);
    linux.set_intel_rdt(None);
    // Labels of the host's security modules; they guard the host, and the
    // guest's kernel has none.
    linux.set_mount_label(None);
    if !sysctls.is_empty() {
        let mut all = sysctls.clone();
        all.extend(linux.sysctl().clone().unwrap_or_default());
        linux.set_sysctl(Some(all));
    }
    spec.set_linux(Some(linux));
    if let Some(mut process) = spec.process().clone() {
        process.set_apparmor_profile(None);
        process.set_selinux_label(None);
        spec.set_process(Some(process));
    }
    spec.set_annotations(None);
    // The pod's, which the guest has.
    spec.set_hostname(None);
    Ok(Adapted { spec, binds })
}

fn refuse_hooks(spec: &Spec) -> Outcome<()> {
    let asked = spec.hooks().as_ref().is_some_and(|hooks| {
        let lists = [
            hooks.prestart().as_ref(),
            hooks.create_runtime().as_ref(),
            hooks.create_container().as_ref(),
            hooks.start_container().as_ref(),
            hooks.poststart().as_ref(),
            hooks.poststop().as_ref(),
        ];
        lists.into_iter().flatten().any(|list| !list.is_empty())
    });
    if asked {
        return Err(Failure::invalid(
            "the spec asks for OCI hooks, which run beside a container on its host; a container \
             with a kernel of its own has no such place",
        ));
    }
    Ok(())
}

/// Where the host would have the process namespace of this process.
fn pod_pids() -> PathBuf {
    PathBuf::from(format!("/proc/{}/ns/pid", std::process::id()))
}

/// Network, IPC and host name are the guest's, shared by the pod.
fn guest_namespaces(spec: &Spec) -> Outcome<Vec<LinuxNamespace>> {
    let mut kept = Vec::new();
    for own in namespaces(spec) {
        match (own.typ(), own.path()) {
            (
                LinuxNamespaceType::Network | LinuxNamespaceType::Ipc | LinuxNamespaceType::Uts,
                _,
            ) => {}
            // containerd means the pod by the process it was told is the pod's.
            (LinuxNamespaceType::Pid, Some(path)) if *path == pod_pids() => {
                let mut shared = own.clone();
                shared.set_path(Some(SHARED_PIDS.into()));
                kept.push(shared);
            }
            (_, None) => kept.push(own.clone()),
            (kind, Some(path)) => {
                return Err(Failure::invalid(format!(
                    "the {kind} namespace `{}` of the host cannot be joined by another kernel",
                    path.display()
                )));
            }
        }
    }
    if namespace(spec, LinuxNamespaceType::Pid).is_none() {
        return Err(Failure::invalid(
            "hostPID is not possible with this runtime class: the pod has a kernel of its own",
        ));
    }
    Ok(kept)
}

/// Character devices every Linux has under the same numbers.
const KNOWN_DEVICES: [(i64, i64); 10] = [
    (1, 3),
    (1, 5),
    (1, 7),
    (1, 8),
    (1, 9),
    (5, 0),
    (5, 1),
    (5, 2),
    (10, 200),
    (10, 229),
];

/// The devices that mean the same in the guest. A privileged container is
/// given all of its host's, by containerd, whether it needs them or not; of
/// any other container one that cannot be had is an error.
fn devices(spec: &Spec) -> Outcome<Vec<LinuxDevice>> {
    let linux = spec.linux().as_ref();
    let list = linux.and_then(|linux| linux.devices().clone());
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let rules = resources.and_then(|resources| resources.devices().as_deref());
    let privileged = rules.unwrap_or(&[]).iter().any(|rule| {
        rule.allow() && rule.major().is_none() && rule.access().as_deref() == Some("rwm")
    });
    let mut kept = Vec::new();
    for device in list.unwrap_or_default() {
        let character = matches!(device.typ(), LinuxDeviceType::C | LinuxDeviceType::U);
        if character && KNOWN_DEVICES.contains(&(device.major(), device.minor())) {
            kept.push(device);
        } else if !privileged {
            return Err(Failure::invalid(format!(
                "the device `{}` ({}:{}) is one of the host's, which a container with a kernel \
                 of its own cannot open",
                device.path().display(),
                device.major(),
                device.minor()
            )));
        }
    }
    Ok(kept)
}

fn is_bind(mount: &Mount) -> bool {
    let options = mount.options().as_deref().unwrap_or(&[]);
    mount.typ().as_deref() == Some("bind")
        || options.iter().any(|word| word == "bind" || word == "rbind")
}

/// Finds the mounts of host files. /dev/shm is the guest's: shared memory
/// cannot be shared with another kernel.
fn binds(spec: &mut Spec) -> Outcome<Vec<Bind>> {
    let Some(mut mounts) = spec.mounts().clone() else {
        return Ok(Vec::new());
    };
    let mut binds = Vec::new();
    for (number, mount) in mounts.iter_mut().enumerate() {
        if !is_bind(mount) {
            continue;
        }
        if mount.destination() == Path::new("/dev/shm") {
            mount.set_source(Some(SHARED_MEMORY.into()));
            continue;
        }
        let source = mount.source().clone().filter(|path| path.is_absolute());
        let source = source.ok_or_else(|| {
            Failure::invalid(format!(
                "the mount on `{}` has no absolute source",
                mount.destination().display()
            ))
        })?;
        let options = mount.options().as_deref().unwrap_or(&[]);
        binds.push(Bind {
            mount: number,
            source,
            read_only: options.iter().any(|word| word == "ro"),
        });
    }
    spec.set_mounts(Some(mounts));
    Ok(binds)
}

/// Size of the shared memory a pod's containers were promised, bytes: that of
/// the tmpfs the container manager made for it.
pub(crate) fn shared_memory(spec: &Spec) -> u64 {
    const DEFAULT: u64 = 64 * MIB;
    let mounts = spec.mounts().as_deref().unwrap_or(&[]);
    let own = mounts
        .iter()
        .find(|mount| mount.destination() == Path::new("/dev/shm"));
    let source = own
        .filter(|mount| is_bind(mount))
        .and_then(|m| m.source().clone());
    let stat = source.and_then(|path| rustix::fs::statvfs(path).ok());
    stat.map(|stat| stat.f_blocks * stat.f_frsize)
        .filter(|bytes| *bytes > 0)
        .unwrap_or(DEFAULT)
}

#[cfg(test)]
mod tests;

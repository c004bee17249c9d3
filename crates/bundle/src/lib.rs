//! What a bundle's spec says, and what of it a guest can be told.
//!
//! A spec is written for a container beside its host: it names namespaces,
//! devices and directories of the host. [`adapt`] keeps what has a meaning in
//! the guest, turns host directories into shares and block devices into disks, and
//! refuses the rest.

mod adapt;
mod annotation;
mod debug;
mod devices;
mod growth;
mod hooks;
mod mounts;
mod pod_config;
mod size;
mod update;

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use bulkhead_protocol::{SPEC_LIMIT, name};
use bulkhead_status::Kubernetes;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};

pub use adapt::{Adapted, Told, adapt};
pub use annotation::is_of_crio;
use annotation::{
    CONTAINER_NAME, CONTAINER_TYPE, Fact, LOG_DIRECTORY, LOG_PATH, POD_NAME, POD_NAMESPACE,
    POD_UID, SANDBOX_ID, annotation,
};
pub use debug::{Debug, debug};
pub use devices::BlockDevice;
pub use growth::{Growth, demand};
pub use hooks::{Hook, Hooks, take_hooks};
pub use mounts::{Bind, Overlay, Stack, is_bind};
pub use pod_config::{POD_CONFIG, pod_spec};
pub use size::{Size, size, spare};
pub use update::{Room, update};

const MIB: u64 = 1 << 20;

/// Longest name kept, characters: of a subdomain, RFC 1123.
const NAME_LIMIT: usize = 253;

/// Longest path, bytes: PATH_MAX of Linux.
const PATH_LIMIT: usize = 4096;

/// What a spec asks for and cannot have; the text says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

impl Refusal {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Why a spec could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not there, or no file.
    #[error("the spec `{}` cannot be read", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is something else.
    #[error("the spec `{}` is no OCI runtime spec", path.display())]
    Parse {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Its pod has an impossible id.
    #[error("the annotation that says which pod the container is of has no valid id: {0}")]
    Pod(String),
    /// containerd and CRI-O at once.
    #[error(
        "the annotations `{}` and `{}` are of two container managers: one of them is the pod's, \
         where it must not be",
        CONTAINER_TYPE.containerd,
        CONTAINER_TYPE.crio
    )]
    Managers,
}

/// Reads `config.json` of a bundle.
pub fn read(bundle: &Path) -> Result<Spec, ReadError> {
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
pub enum Kind {
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

/// Tells a pod from a container.
///
/// # Errors
/// [`ReadError::Pod`]; [`ReadError::Managers`].
pub fn kind(spec: &Spec) -> Result<Kind, ReadError> {
    annotation::refuse_both(spec)?;
    match annotation(spec, CONTAINER_TYPE) {
        Some("sandbox") => Ok(Kind::Pod),
        Some("container") => {
            let pod = annotation(spec, SANDBOX_ID).unwrap_or_default();
            // It becomes a part of a path.
            name::check(pod).map_err(|error| ReadError::Pod(error.to_string()))?;
            Ok(Kind::Member {
                pod: pod.to_owned(),
            })
        }
        _ => Ok(Kind::Single),
    }
}

fn short(spec: &Spec, fact: Fact) -> Option<String> {
    annotation(spec, fact).map(|text| text.chars().take(NAME_LIMIT).collect())
}

/// Whose pod it is in a cluster.
pub fn kubernetes(spec: &Spec) -> Option<Kubernetes> {
    Some(Kubernetes {
        name: short(spec, POD_NAME)?,
        namespace: short(spec, POD_NAMESPACE).unwrap_or_default(),
        uid: short(spec, POD_UID).unwrap_or_default(),
    })
}

/// A container's name in its pod.
pub fn container_name(spec: &Spec) -> Option<String> {
    short(spec, CONTAINER_NAME)
}

fn path(spec: &Spec, fact: Fact) -> Option<PathBuf> {
    let text = annotation(spec, fact)?;
    (text.len() <= PATH_LIMIT && text.starts_with('/')).then(|| PathBuf::from(text))
}

/// The directory of the logs of a pod's containers, where it is known.
pub fn log_directory(spec: &Spec) -> Option<PathBuf> {
    path(spec, LOG_DIRECTORY)
}

/// The log of a container, where it is known.
pub fn log_path(spec: &Spec) -> Option<PathBuf> {
    path(spec, LOG_PATH)
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
pub fn network(spec: &Spec) -> Option<PathBuf> {
    namespace(spec, LinuxNamespaceType::Network)?.path().clone()
}

/// Gives a spec the network namespace it asked for without naming one.
pub fn set_network(spec: &mut Spec, path: PathBuf) {
    let Some(mut linux) = spec.linux().clone() else {
        return;
    };
    let mut all = linux.namespaces().clone().unwrap_or_default();
    let own = all
        .iter_mut()
        .find(|own| own.typ() == LinuxNamespaceType::Network);
    if let Some(own) = own {
        own.set_path(Some(path));
        linux.set_namespaces(Some(all));
        spec.set_linux(Some(linux));
    }
}

/// The host's control group the pod is to live in.
pub fn cgroup(spec: &Spec) -> Option<String> {
    let path = spec.linux().as_ref()?.cgroups_path().as_ref()?;
    let path = path.to_str()?;
    (!path.is_empty()).then(|| path.to_owned())
}

/// Refuses what would need the host's own namespaces.
pub fn refuse_host(spec: &Spec) -> Result<(), Refusal> {
    let demands = [
        (LinuxNamespaceType::Network, "hostNetwork"),
        (LinuxNamespaceType::Pid, "hostPID"),
        (LinuxNamespaceType::Ipc, "hostIPC"),
    ];
    for (kind, name) in demands {
        if namespace(spec, kind).is_none() {
            return Err(Refusal::new(format!(
                "{name} is not possible with this runtime class: the pod has a kernel of its own; \
                 leave {name} out, or choose another runtime class"
            )));
        }
    }
    Ok(())
}

/// Kernel settings of the pod, which its containers share.
pub fn sysctls(spec: &Spec) -> HashMap<String, String> {
    let linux = spec.linux().as_ref();
    linux
        .and_then(|linux| linux.sysctl().clone())
        .unwrap_or_default()
}

/// Size of the shared memory a pod's containers were promised, bytes: that of
/// the tmpfs the container manager made for it.
pub fn shared_memory(spec: &Spec) -> u64 {
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

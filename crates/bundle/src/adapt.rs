//! A container's spec, written for a container beside its host, as one for the
//! guest.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bulkhead_protocol::{CONTAINER_PIDS, SHARED_PIDS};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, Spec};

use crate::devices::{self, BlockDevice};
use crate::mounts::{self, Bind, HostMounts, Overlay};
use crate::{Refusal, namespace, namespaces};

/// A spec for the guest.
#[derive(Debug)]
pub struct Adapted {
    /// As the guest is told.
    pub spec: Spec,
    /// What has to be shared with the guest for it.
    pub binds: Vec<Bind>,
    /// What has to be laid over each other, and shared then.
    pub overlays: Vec<Overlay>,
    /// Block devices of the host that have to be disks of the guest for it.
    pub disks: Vec<BlockDevice>,
}

/// The process ids containerd was told: by them it says whose namespace is meant.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Of the pod.
    pub pod: u32,
    /// Of its containers, with their ids.
    pub containers: HashMap<u32, String>,
}

impl Told {
    /// Where in the guest the process namespace is that this path of the host
    /// means.
    fn guest_namespace(&self, path: &Path) -> Option<PathBuf> {
        if path == process_namespace(self.pod) {
            return Some(SHARED_PIDS.into());
        }
        let mut all = self.containers.iter();
        let (_, id) = all.find(|(pid, _)| path == process_namespace(**pid))?;
        Some(Path::new(CONTAINER_PIDS).join(id))
    }
}

/// Makes a container's spec one for the guest. `sysctls` are the pod's.
///
/// # Errors
/// What has no meaning in a guest.
pub fn adapt(
    mut spec: Spec,
    sysctls: &HashMap<String, String>,
    told: &Told,
) -> Result<Adapted, Refusal> {
    refuse_hooks(&spec)?;
    refuse_rdt(&spec)?;
    let HostMounts { binds, overlays } = mounts::adapt(&mut spec)?;
    let Some(mut linux) = spec.linux().clone() else {
        return Err(Refusal::new("the spec has no `linux` part"));
    };
    linux.set_namespaces(Some(guest_namespaces(&spec, told)?));
    let disks = devices::adapt(&mut linux)?;
    linux.set_cgroups_path(None);
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
    Ok(Adapted {
        spec,
        binds,
        overlays,
        disks,
    })
}

fn refuse_hooks(spec: &Spec) -> Result<(), Refusal> {
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
        return Err(Refusal::new(
            "the spec asks for OCI hooks, which run beside a container on its host; a container \
             with a kernel of its own has no such place",
        ));
    }
    Ok(())
}

/// The host's processors divide their cache among the monitor's threads, not
/// among containers of a guest.
fn refuse_rdt(spec: &Spec) -> Result<(), Refusal> {
    let linux = spec.linux().as_ref();
    if linux.is_some_and(|linux| linux.intel_rdt().is_some()) {
        return Err(Refusal::new(
            "the spec's `linux.intelRdt` divides the cache of the host's processors, which a \
             container with a kernel of its own does not reach; leave the class out",
        ));
    }
    Ok(())
}

/// Where the host has a process's process namespace. pid_namespaces(7).
pub(crate) fn process_namespace(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/pid"))
}

/// Network, IPC and host name are the guest's, shared by the pod. Each container sees
/// its own control group as the root of all: what would be above it, on a host whose
/// groups it is to see, is another kernel's.
fn guest_namespaces(spec: &Spec, told: &Told) -> Result<Vec<LinuxNamespace>, Refusal> {
    // Users of a namespace of their own could do nothing in the guest's.
    let own_users = namespace(spec, LinuxNamespaceType::User).is_some();
    let mut kept = Vec::new();
    for own in namespaces(spec) {
        let meant = own
            .path()
            .as_deref()
            .filter(|_| own.typ() == LinuxNamespaceType::Pid);
        if let Some(path) = meant.and_then(|path| told.guest_namespace(path)) {
            let mut shared = own.clone();
            shared.set_path(Some(path));
            kept.push(shared);
            continue;
        }
        match (own.typ(), own.path()) {
            (LinuxNamespaceType::Ipc | LinuxNamespaceType::Uts, _) if own_users => {
                let mut new = own.clone();
                new.set_path(None);
                kept.push(new);
            }
            (
                LinuxNamespaceType::Network | LinuxNamespaceType::Ipc | LinuxNamespaceType::Uts,
                _,
            ) => {}
            (_, None) => kept.push(own.clone()),
            (kind, Some(path)) => {
                return Err(Refusal::new(format!(
                    "the {kind} namespace `{}` of the host cannot be joined by another kernel",
                    path.display()
                )));
            }
        }
    }
    if namespace(spec, LinuxNamespaceType::Pid).is_none() {
        return Err(Refusal::new(
            "hostPID is not possible with this runtime class: the pod has a kernel of its own",
        ));
    }
    if namespace(spec, LinuxNamespaceType::Cgroup).is_none() {
        let own = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Cgroup);
        kept.push(
            own.build()
                .map_err(|error| Refusal::new(error.to_string()))?,
        );
    }
    Ok(kept)
}

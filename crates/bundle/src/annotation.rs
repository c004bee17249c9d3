//! What a container manager says of pods and containers in annotations.
//!
//! They are no secret of the manager's: CRI-O hands on all a pod's author wrote,
//! containerd what its configuration lets through. So only the manager's own are
//! looked at, of CRI-O those its author's cannot take the place of, and a spec that
//! speaks like both is refused.

use oci_spec::runtime::Spec;

use crate::ReadError;

/// One fact, and where either manager says it; empty: it does not.
/// containerd's pkg/cri/annotations; CRI-O's server/sandbox_run_linux.go and
/// internal/factory/container, and the labels of the kubelet, which CRI-O adds last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fact {
    pub(crate) containerd: &'static str,
    pub(crate) crio: &'static str,
}

/// Pod or container.
pub(crate) const CONTAINER_TYPE: Fact = Fact {
    containerd: "io.kubernetes.cri.container-type",
    crio: "io.kubernetes.cri-o.ContainerType",
};

/// Id of the pod.
pub(crate) const SANDBOX_ID: Fact = Fact {
    containerd: "io.kubernetes.cri.sandbox-id",
    crio: "io.kubernetes.cri-o.SandboxID",
};

/// The pod's name in the cluster.
pub(crate) const POD_NAME: Fact = Fact {
    containerd: "io.kubernetes.cri.sandbox-name",
    crio: "io.kubernetes.pod.name",
};

/// The pod's namespace in the cluster.
pub(crate) const POD_NAMESPACE: Fact = Fact {
    containerd: "io.kubernetes.cri.sandbox-namespace",
    crio: "io.kubernetes.pod.namespace",
};

/// The pod's uid in the cluster.
pub(crate) const POD_UID: Fact = Fact {
    containerd: "io.kubernetes.cri.sandbox-uid",
    crio: "io.kubernetes.pod.uid",
};

/// The container's name in its pod.
pub(crate) const CONTAINER_NAME: Fact = Fact {
    containerd: "io.kubernetes.cri.container-name",
    crio: "io.kubernetes.container.name",
};

/// Where containerd keeps the output of a pod's containers.
pub(crate) const LOG_DIRECTORY: Fact = Fact {
    containerd: "io.kubernetes.cri.sandbox-log-directory",
    crio: "",
};

/// Where CRI-O keeps that of one container.
pub(crate) const LOG_PATH: Fact = Fact {
    containerd: "",
    crio: "io.kubernetes.cri-o.LogPath",
};

/// The pod's memory limit, bytes.
pub(crate) const SANDBOX_MEMORY: Fact = Fact {
    containerd: "io.kubernetes.cri.sandbox-memory",
    crio: "",
};

/// The pod's CPU limit, µs in a period.
pub(crate) const SANDBOX_QUOTA: Fact = Fact {
    containerd: "io.kubernetes.cri.sandbox-cpu-quota",
    crio: "",
};

/// That period, µs.
pub(crate) const SANDBOX_PERIOD: Fact = Fact {
    containerd: "io.kubernetes.cri.sandbox-cpu-period",
    crio: "",
};

/// Both limits, as JSON of the CRI's `LinuxContainerResources`. A pod's author may
/// have written it.
pub(crate) const SANDBOX_RESOURCES: Fact = Fact {
    containerd: "",
    crio: "io.kubernetes.cri-o.PodLinuxResources",
};

/// The same, in CRI-O's newer names.
pub(crate) const NEW_SANDBOX_RESOURCES: Fact = Fact {
    containerd: "",
    crio: "pod-linux-resources.crio.io",
};

/// Did CRI-O write this spec?
pub fn is_of_crio(spec: &Spec) -> bool {
    has(spec, CONTAINER_TYPE.crio)
}

fn has(spec: &Spec, key: &str) -> bool {
    let annotations = spec.annotations().as_ref();
    annotations.is_some_and(|all| all.contains_key(key))
}

/// What the manager of this spec says of it.
pub(crate) fn annotation(spec: &Spec, fact: Fact) -> Option<&str> {
    let annotations = spec.annotations().as_ref()?;
    let key = match is_of_crio(spec) {
        true => fact.crio,
        false => fact.containerd,
    };
    annotations.get(key).map(String::as_str)
}

/// Refuses a spec that two managers seem to have written.
pub(crate) fn refuse_both(spec: &Spec) -> Result<(), ReadError> {
    match has(spec, CONTAINER_TYPE.containerd) && is_of_crio(spec) {
        true => Err(ReadError::Managers),
        false => Ok(()),
    }
}

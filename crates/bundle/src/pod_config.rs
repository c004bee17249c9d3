//! The spec of a pod nobody wrote one for: containerd's Sandbox API hands over
//! the CRI's description instead. It becomes what containerd's own pods have.

use std::collections::HashMap;

use oci_spec::runtime::Spec;
use prost::Message;
use serde_json::{Value, json};

use crate::Refusal;
use crate::annotation::{
    CONTAINER_TYPE, LOG_DIRECTORY, POD_NAME, POD_NAMESPACE, POD_UID, SANDBOX_ID, SANDBOX_MEMORY,
    SANDBOX_PERIOD, SANDBOX_QUOTA,
};

/// The type of the message, in containerd's `Any`.
pub const POD_CONFIG: &str = "runtime.v1.PodSandboxConfig";

/// Longest description taken, bytes: what a gRPC message of the CRI may have.
const LIMIT: usize = 16 << 20;

// Of each message what is needed here; the numbers are those of
// k8s.io/cri-api/pkg/apis/runtime/v1/api.proto.

#[derive(Clone, PartialEq, Message)]
struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(string, tag = "2")]
    hostname: String,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(map = "string, string", tag = "7")]
    annotations: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<Linux>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct Linux {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security: Option<Security>,
    #[prost(map = "string, string", tag = "3")]
    sysctls: HashMap<String, String>,
    #[prost(message, optional, tag = "5")]
    resources: Option<Resources>,
}

#[derive(Clone, PartialEq, Message)]
struct Security {
    #[prost(message, optional, tag = "1")]
    namespaces: Option<Namespaces>,
}

#[derive(Clone, PartialEq, Message)]
struct Namespaces {
    #[prost(int32, tag = "1")]
    network: i32,
    #[prost(int32, tag = "2")]
    pid: i32,
    #[prost(int32, tag = "3")]
    ipc: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Resources {
    #[prost(int64, tag = "1")]
    cpu_period: i64,
    #[prost(int64, tag = "2")]
    cpu_quota: i64,
    #[prost(int64, tag = "4")]
    memory: i64,
}

/// `NamespaceMode` of the CRI: the host's.
const NODE: i32 = 2;

/// The spec of the pod `id` from its encoded `PodSandboxConfig`. `network` is
/// the path of its network namespace, empty for none.
///
/// # Errors
/// When it is no such message.
pub fn pod_spec(
    id: &str,
    config: &[u8],
    network: &str,
    annotations: &HashMap<String, String>,
) -> Result<Spec, Refusal> {
    let wrong = |error: &dyn std::fmt::Display| {
        Refusal::new(format!("the description of the pod `{id}`: {error}"))
    };
    if config.len() > LIMIT {
        return Err(wrong(&"it is too long"));
    }
    let config = PodSandboxConfig::decode(config).map_err(|error| wrong(&error))?;
    let linux = config.linux.clone().unwrap_or_default();
    // The group containerd would name for a pod of its own.
    let group = match linux.cgroup_parent.as_str() {
        "" => String::new(),
        parent => format!("{}/{id}", parent.trim_end_matches('/')),
    };
    let spec = json!({
        "ociVersion": "1.0.2",
        "process": {"args": ["pause"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "hostname": config.hostname,
        "annotations": told(id, &config, annotations),
        "mounts": [],
        "linux": {
            "namespaces": namespaces(&linux, network),
            "sysctl": linux.sysctls,
            "cgroupsPath": group,
        },
    });
    serde_json::from_value(spec).map_err(|error| wrong(&error))
}

fn namespaces(linux: &Linux, network: &str) -> Vec<Value> {
    let modes = linux.security.clone().unwrap_or_default();
    let modes = modes.namespaces.unwrap_or_default();
    let kinds = [
        ("network", modes.network),
        ("pid", modes.pid),
        ("ipc", modes.ipc),
    ];
    let own = kinds.into_iter().filter(|(_, mode)| *mode != NODE);
    let own = own.map(|(kind, _)| match kind {
        "network" if !network.is_empty() => json!({"type": kind, "path": network}),
        _ => json!({"type": kind}),
    });
    own.chain([json!({"type": "mount"}), json!({"type": "uts"})])
        .collect()
}

/// The facts containerd's pods have as annotations. Nobody else's may stand in
/// their places.
fn told(
    id: &str,
    config: &PodSandboxConfig,
    annotations: &HashMap<String, String>,
) -> HashMap<String, String> {
    let mut all = config.annotations.clone();
    all.extend(annotations.clone());
    // It would be CRI-O's pod with it.
    all.remove(CONTAINER_TYPE.crio);
    let metadata = config.metadata.clone().unwrap_or_default();
    let linux = config.linux.clone().unwrap_or_default();
    let resources = linux.resources.unwrap_or_default();
    let own = [
        (CONTAINER_TYPE, "sandbox".to_owned()),
        (SANDBOX_ID, id.to_owned()),
        (POD_NAME, metadata.name),
        (POD_NAMESPACE, metadata.namespace),
        (POD_UID, metadata.uid),
        (LOG_DIRECTORY, config.log_directory.clone()),
        (SANDBOX_MEMORY, resources.memory.to_string()),
        (SANDBOX_QUOTA, resources.cpu_quota.to_string()),
        (SANDBOX_PERIOD, resources.cpu_period.to_string()),
    ];
    all.extend(own.map(|(fact, value)| (fact.containerd.to_owned(), value)));
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Kind, kind, kubernetes, network, refuse_host, sysctls};

    fn config() -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(Metadata {
                name: "web".into(),
                uid: "u1".into(),
                namespace: "default".into(),
            }),
            hostname: "web".into(),
            annotations: [CONTAINER_TYPE.containerd, CONTAINER_TYPE.crio]
                .map(|key| (key.to_owned(), "container".to_owned()))
                .into(),
            linux: Some(Linux {
                cgroup_parent: "/kubepods/pod1".into(),
                sysctls: [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into(),
                resources: Some(Resources {
                    memory: 256 << 20,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn spec(config: &PodSandboxConfig) -> Spec {
        pod_spec(
            "abc",
            &config.encode_to_vec(),
            "/run/netns/x",
            &HashMap::new(),
        )
        .unwrap()
    }

    #[test]
    fn a_described_pod_is_as_one_of_containerds() {
        let spec = spec(&config());
        // A pod's own annotation does not make it something else.
        assert_eq!(kind(&spec).unwrap(), Kind::Pod);
        assert_eq!(kubernetes(&spec).unwrap().uid, "u1");
        assert_eq!(network(&spec).unwrap().to_str(), Some("/run/netns/x"));
        assert_eq!(sysctls(&spec).len(), 1);
        assert_eq!(crate::cgroup(&spec).unwrap(), "/kubepods/pod1/abc");
        let size = crate::size(&spec, &bulkhead_config::Config::default(), None).unwrap();
        assert_eq!(size.memory, (256 + 64) << 20);
        assert!(refuse_host(&spec).is_ok());
    }

    #[test]
    fn the_hosts_namespaces_are_refused_here_too() {
        let mut config = config();
        let namespaces = Namespaces {
            pid: NODE,
            ..Default::default()
        };
        config.linux.as_mut().unwrap().security = Some(Security {
            namespaces: Some(namespaces),
        });
        let text = refuse_host(&spec(&config)).unwrap_err().to_string();
        assert!(text.starts_with("hostPID"), "{text}");
    }

    proptest! {
        #[test]
        fn no_description_panics(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = pod_spec("abc", &bytes, "", &HashMap::new());
        }
    }
}

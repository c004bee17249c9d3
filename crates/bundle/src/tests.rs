use serde_json::json;

use bulkhead_config::Config;
use bulkhead_protocol::SHARED_MEMORY;

use super::*;
use crate::adapt::process_namespace;
use crate::annotation::{
    NEW_SANDBOX_RESOURCES, SANDBOX_MEMORY, SANDBOX_PERIOD, SANDBOX_QUOTA, SANDBOX_RESOURCES,
};
use crate::size::host_vcpus;

const POD: u32 = 4711;
const APP: u32 = 4712;

pub(crate) fn told() -> Told {
    Told {
        pod: POD,
        containers: [(APP, "app".to_owned())].into(),
    }
}

pub(crate) fn spec(change: impl FnOnce(&mut serde_json::Value)) -> Spec {
    let mut value = json!({
        "ociVersion": "1.0.2",
        "process": {"cwd": "/", "args": ["sh"], "user": {"uid": 0, "gid": 0},
                    "apparmorProfile": "cri-containerd.apparmor.d"},
        "root": {"path": "rootfs"},
        "hostname": "web",
        "annotations": {},
        "mounts": [],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "ipc", "path": "/proc/1/ns/ipc"},
                {"type": "uts", "path": "/proc/1/ns/uts"}, {"type": "mount"},
                {"type": "network", "path": "/run/netns/x"}
            ],
            "resources": {}
        }
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

#[test]
fn containerd_and_crio_tell_pods_from_containers() {
    let with = |pairs: &[(&str, &str)]| {
        kind(&spec(|value| {
            for (key, text) in pairs {
                value["annotations"][*key] = json!(text);
            }
        }))
    };
    let member = |pod: &str| Kind::Member {
        pod: pod.to_owned(),
    };
    assert_eq!(with(&[]).unwrap(), Kind::Single);
    let (theirs, crios) = (CONTAINER_TYPE.containerd, CONTAINER_TYPE.crio);
    for (kind, pod) in [(theirs, SANDBOX_ID.containerd), (crios, SANDBOX_ID.crio)] {
        assert_eq!(with(&[(kind, "sandbox")]).unwrap(), Kind::Pod);
        let of = |id| with(&[(kind, "container"), (pod, id)]);
        assert_eq!(of("abc").unwrap(), member("abc"));
        assert!(of("../abc").is_err());
    }
    // CRI-O hands on what the pod's author wrote.
    let author = (SANDBOX_ID.containerd, "somebody-elses");
    let own = (SANDBOX_ID.crio, "own");
    let crio = with(&[(crios, "container"), author, own]);
    assert_eq!(crio.unwrap(), member("own"));
    let both = with(&[(crios, "container"), (theirs, "container"), author, own]);
    let text = both.unwrap_err().to_string();
    assert!(text.contains("two container managers"), "{text}");
}

#[test]
fn of_crios_annotations_those_count_that_are_not_the_authors() {
    let pod = spec(|value| {
        value["annotations"] = json!({
            CONTAINER_TYPE.crio: "sandbox",
            POD_NAME.crio: "own", POD_NAMESPACE.crio: "tenant", POD_UID.crio: "uid",
            POD_NAME.containerd: "theirs", "io.kubernetes.cri-o.KubeName": "theirs",
            LOG_DIRECTORY.containerd: "/etc", "io.kubernetes.cri-o.LogDirectory": "/etc",
            SANDBOX_MEMORY.containerd: (1u64 << 40).to_string(),
        });
    });
    let kubernetes = kubernetes(&pod).unwrap();
    assert_eq!(
        (kubernetes.name.as_str(), kubernetes.namespace.as_str()),
        ("own", "tenant")
    );
    assert_eq!(log_directory(&pod), None);
    let size = size(&pod, &Config::default(), None).unwrap();
    assert_eq!(size.memory, 512 * MIB);
}

#[test]
fn crio_tells_the_size_of_a_pod_and_the_control_group_bounds_it() {
    let config = Config::default();
    let told = |text: &str, fact: Fact| {
        spec(|value| {
            value["annotations"] = json!({ CONTAINER_TYPE.crio: "sandbox", fact.crio: text });
        })
    };
    let limits = json!({
        "cpu_period": 100_000, "cpu_quota": 110_000, "cpu_shares": 1126,
        "memory_limit_in_bytes": 256 * MIB, "oom_score_adj": 2, "unified": {},
    });
    for fact in [SANDBOX_RESOURCES, NEW_SANDBOX_RESOURCES] {
        let pod = told(&limits.to_string(), fact);
        let wanted = size(&pod, &config, Some(4096 * MIB)).unwrap();
        assert_eq!(wanted.memory, (256 + 64) * MIB);
        assert_eq!(u64::from(wanted.vcpus), 2.min(host_vcpus()));
        assert!(spare(&pod, &config, wanted, true).memory > 0);
        assert!(size(&pod, &config, Some(200 * MIB)).unwrap().memory < 200 * MIB);
        // Nothing bounds what may be the author's.
        assert_eq!(size(&pod, &config, None).unwrap().memory, 512 * MIB);
    }
    for nonsense in [
        "null",
        "",
        "{\"cpu_quota\": \"many\"}",
        "[]",
        "{\"memory_limit_in_bytes\": -1}",
    ] {
        let pod = told(nonsense, SANDBOX_RESOURCES);
        assert_eq!(
            size(&pod, &config, Some(4096 * MIB)).unwrap().memory,
            512 * MIB
        );
    }
}

#[test]
fn a_machine_is_as_large_as_the_pods_limits() {
    let config = Config::default();
    assert_eq!(
        size(&spec(|_| ()), &config, None).unwrap(),
        Size {
            vcpus: 1,
            memory: 512 * MIB
        }
    );
    let limited = spec(|value| {
        value["annotations"][SANDBOX_MEMORY.containerd] = json!((256 * MIB + 1).to_string());
        value["annotations"][SANDBOX_QUOTA.containerd] = json!("110000");
        value["annotations"][SANDBOX_PERIOD.containerd] = json!("100000");
    });
    let wanted = size(&limited, &config, None).unwrap();
    assert_eq!(wanted.memory, (257 + 64) * MIB);
    let host = std::thread::available_parallelism().unwrap().get();
    assert_eq!(wanted.vcpus as usize, 2.min(host));
    let nonsense = spec(|value| {
        value["annotations"][SANDBOX_MEMORY.containerd] = json!("-5");
        value["annotations"][SANDBOX_QUOTA.containerd] = json!("many");
    });
    assert_eq!(size(&nonsense, &config, None).unwrap().memory, 512 * MIB);
}

#[test]
fn the_hosts_namespaces_are_refused_by_their_kubernetes_names() {
    for (kind, name) in [
        ("network", "hostNetwork"),
        ("pid", "hostPID"),
        ("ipc", "hostIPC"),
    ] {
        let without = spec(|value| {
            let list = value["linux"]["namespaces"].as_array_mut().unwrap();
            list.retain(|own| own["type"] != kind);
        });
        let text = refuse_host(&without).unwrap_err().to_string();
        assert!(text.starts_with(name), "{text}");
    }
    assert!(refuse_host(&spec(|_| ())).is_ok());
}

#[test]
fn a_guest_is_told_nothing_of_its_host() {
    let own = spec(|value| {
        value["mounts"] = json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/etc/hosts", "type": "bind", "source": "/h", "options": ["rbind", "ro"]},
            {"destination": "/dev/shm", "type": "bind", "source": "/s", "options": ["rbind"]},
        ]);
    });
    let adapted = adapt(own, &HashMap::new(), &told()).unwrap();
    let bind = Bind {
        mount: 1,
        source: "/h".into(),
        read_only: true,
        later: false,
    };
    assert_eq!(adapted.binds, [bind]);
    let text = serde_json::to_string(&adapted.spec).unwrap();
    for hostly in ["apparmor", "/run/netns", "/proc/1", "\"/s\""] {
        assert!(!text.contains(hostly), "{hostly} in {text}");
    }
    assert!(text.contains(SHARED_MEMORY));
}

#[test]
fn hooks_and_foreign_namespaces_are_refused() {
    let hooks = spec(|value| {
        value["hooks"] = json!({"prestart": [{"path": "/bin/true"}]});
    });
    assert!(adapt(hooks, &HashMap::new(), &told()).is_err());
    let class = spec(|value| value["linux"]["intelRdt"] = json!({"closID": "guaranteed"}));
    let text = adapt(class, &HashMap::new(), &told())
        .unwrap_err()
        .to_string();
    assert!(text.contains("intelRdt"), "{text}");
    let foreign = spec(|value| {
        value["linux"]["namespaces"][0]["path"] = json!("/proc/7/ns/pid");
    });
    let text = adapt(foreign, &HashMap::new(), &told())
        .unwrap_err()
        .to_string();
    assert!(text.contains("/proc/7/ns/pid"), "{text}");
    // Of another kind it is not the one in the guest.
    let foreign = spec(|value| {
        value["linux"]["namespaces"][3] = json!({"type": "user", "path": process_namespace(POD)});
    });
    assert!(adapt(foreign, &HashMap::new(), &told()).is_err());
}

#[test]
fn a_process_namespace_is_known_by_the_pid_containerd_was_told() {
    let meant = |pid| {
        let own = spec(|value| {
            value["linux"]["namespaces"][0]["path"] = json!(process_namespace(pid));
        });
        let adapted = adapt(own, &HashMap::new(), &told()).unwrap().spec;
        let own = namespace(&adapted, LinuxNamespaceType::Pid).unwrap();
        own.path().clone().unwrap()
    };
    assert_eq!(meant(POD), Path::new(bulkhead_protocol::SHARED_PIDS));
    assert_eq!(
        meant(APP),
        Path::new(bulkhead_protocol::CONTAINER_PIDS).join("app")
    );
}

#[test]
fn a_machine_fits_into_the_pods_control_group() {
    let config = Config::default();
    let size = |room| size(&spec(|_| ()), &config, Some(room * MIB));
    assert_eq!(size(4096).unwrap().memory, 512 * MIB);
    assert_eq!(size(300).unwrap().memory, (300 - 64) * MIB);
    let text = size(150).unwrap_err().to_string();
    assert!(
        text.contains("86 MiB") && text.contains("128 MiB"),
        "{text}"
    );
}

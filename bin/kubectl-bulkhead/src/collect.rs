//! `collect`: an archive of what helps to find a fault.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::redact::redact;
use crate::{Error, text};

/// Objects of a kind.
const OBJECTS: u32 = 500;
/// Bytes of a file, and of all of them, before compression.
const FILE: usize = 4 << 20;
const ALL: usize = 32 << 20;

/// Files, and what is not among them.
#[derive(Default)]
struct Bundle {
    files: Vec<(String, String)>,
    size: usize,
    left_out: Vec<String>,
}

impl Bundle {
    fn add(&mut self, name: &str, value: &Value) {
        let text = text::json(value);
        let fits = text.len() <= FILE && self.size + text.len() <= ALL;
        if fits {
            self.size += text.len();
            self.files.push((name.to_owned(), text));
        } else {
            let bytes = text.len();
            self.left_out.push(format!(
                "{name}: its {bytes} bytes are more than there is room for"
            ));
        }
    }
}

/// What is listed: file, API group, version, kind, and whether of namespaces.
const KINDS: [(&str, &str, &str, &str, bool); 8] = [
    (
        "kataconfigs.json",
        "kataconfiguration.openshift.io",
        "v1",
        "KataConfig",
        false,
    ),
    (
        "katanodes.json",
        "kataconfiguration.openshift.io",
        "v1alpha1",
        "KataNode",
        false,
    ),
    (
        "runtimeclasses.json",
        "node.k8s.io",
        "v1",
        "RuntimeClass",
        false,
    ),
    (
        "machineconfigpools.json",
        "machineconfiguration.openshift.io",
        "v1",
        "MachineConfigPool",
        false,
    ),
    ("pods.json", "", "v1", "Pod", true),
    ("daemonsets.json", "apps", "v1", "DaemonSet", true),
    ("deployments.json", "apps", "v1", "Deployment", true),
    ("events.json", "events.k8s.io", "v1", "Event", true),
];

/// Collects into a new file and says which.
pub(crate) async fn collect(
    client: &Client,
    output: Option<PathBuf>,
    namespace: &str,
) -> Result<PathBuf, Error> {
    let now = Timestamp::now();
    let path = output.unwrap_or_else(|| {
        format!("bulkhead-cluster-{}.tar.gz", now.strftime("%Y%m%dT%H%M%SZ")).into()
    });
    let mut bundle = Bundle::default();
    bundle.left_out.push(
        "always: values of environment variables, texts under secret names, passwords in \
         addresses, managedFields, last-applied-configuration, Secrets, ConfigMaps, logs"
            .into(),
    );
    versions(client, &mut bundle).await;
    for (file, group, version, kind, of_namespaces) in KINDS {
        let kind = GroupVersionKind::gvk(group, version, kind);
        let mut found = Vec::new();
        // Events about objects without a namespace are in `default`.
        let more = ["default"].into_iter().filter(|_| file == "events.json");
        let spaces = match of_namespaces {
            true => std::iter::once(namespace).chain(more).collect(),
            false => vec![""],
        };
        for space in spaces {
            list(client, &kind, space, file, &mut found, &mut bundle).await;
        }
        if !found.is_empty() {
            bundle.add(file, &json!(found));
        }
    }
    nodes(client, &mut bundle).await;
    write(&path, &bundle, now).map_err(|source| Error::Write {
        path: path.clone(),
        source,
    })?;
    Ok(path)
}

async fn versions(client: &Client, bundle: &mut Bundle) {
    let server = client.apiserver_version().await;
    let server = match server {
        Ok(info) => json!(info),
        Err(error) => json!(text::plain(&error.to_string())),
    };
    let own = env!("CARGO_PKG_VERSION");
    bundle.add(
        "versions.json",
        &json!({ "kubectl-bulkhead": own, "server": server }),
    );
}

async fn list(
    client: &Client,
    kind: &GroupVersionKind,
    namespace: &str,
    file: &str,
    found: &mut Vec<Value>,
    bundle: &mut Bundle,
) {
    let resource = ApiResource::from_gvk(kind);
    let api: Api<DynamicObject> = match namespace {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    for object in first(&api, file, bundle).await.unwrap_or_default() {
        let Ok(mut value) = serde_json::to_value(&object) else {
            continue;
        };
        let about = value["regarding"]["kind"].as_str();
        let related = ["KataConfig", "KataNode"].map(Some).contains(&about);
        if file == "events.json" && namespace == "default" && !related {
            continue;
        }
        redact(&mut value);
        found.push(value);
    }
}

/// The first objects of a kind; what could not be had is noted.
async fn first<T>(api: &Api<T>, file: &str, bundle: &mut Bundle) -> Option<Vec<T>>
where
    T: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let listed = match api.list(&ListParams::default().limit(OBJECTS)).await {
        Ok(listed) => listed,
        Err(error) => {
            let error = text::plain(&error.to_string());
            bundle.left_out.push(format!("{file}: {error}"));
            return None;
        }
    };
    let more = listed.metadata.continue_;
    if more.is_some_and(|more| !more.is_empty()) {
        bundle
            .left_out
            .push(format!("{file}: more than {OBJECTS} objects"));
    }
    Some(listed.items)
}

/// Of nodes, what has to do with the runtime, and no identity.
async fn nodes(client: &Client, bundle: &mut Bundle) {
    let api: Api<Node> = Api::all(client.clone());
    let Some(listed) = first(&api, "nodes.json", bundle).await else {
        return;
    };
    bundle.left_out.push(
        "nodes.json: addresses, identities, images, and labels and annotations of others".into(),
    );
    let own = |key: &str| {
        let ours = [
            "kataconfiguration.openshift.io/",
            "machineconfiguration.openshift.io/",
        ];
        key.starts_with("node-role.kubernetes.io/")
            || key.ends_with("runtime.kata")
            || ours.iter().any(|prefix| key.starts_with(prefix))
    };
    let node = |node: &Node| {
        let status = node.status.clone().unwrap_or_default();
        let info = status.node_info.unwrap_or_default();
        let mut labels = node.labels().clone();
        labels.retain(|key, _| own(key));
        let mut annotations = node.annotations().clone();
        annotations.retain(|key, _| own(key) && !key.contains("ssh"));
        json!({
            "name": node.name_any(), "labels": labels, "annotations": annotations,
            "taints": node.spec.clone().unwrap_or_default().taints,
            "conditions": status.conditions, "runtimeHandlers": status.runtime_handlers,
            "kernel": info.kernel_version, "system": info.os_image,
            "containerRuntime": info.container_runtime_version, "kubelet": info.kubelet_version,
            "architecture": info.architecture,
        })
    };
    let mut nodes = json!(listed.iter().map(node).collect::<Vec<_>>());
    redact(&mut nodes);
    bundle.add("nodes.json", &nodes);
}

fn write(path: &PathBuf, bundle: &Bundle, now: Timestamp) -> std::io::Result<()> {
    // For the owner's eyes, and never over another file.
    let mut options = std::fs::OpenOptions::new();
    let file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let left_out = bundle.left_out.join("\n") + "\n";
    let all = bundle
        .files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()));
    for (name, text) in all.chain([("left-out.txt", left_out.as_str())]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(now.as_second()).unwrap_or_default());
        header.set_cksum();
        archive.append_data(
            &mut header,
            format!("bulkhead-cluster/{name}"),
            text.as_bytes(),
        )?;
    }
    archive.into_inner()?.finish()?.flush()
}

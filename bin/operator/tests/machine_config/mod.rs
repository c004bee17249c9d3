//! The same on OpenShift: the operator's own program, and a stand-in for the
//! Machine Config Operator that renders pools and changes their nodes.

use std::collections::BTreeMap;

use bulkhead_kataconfig::{KataConfig, KataNode, MEMBER_LABEL, NodeInstall, runtime_label};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind, Selector, SelectorExt};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::stage::{Stage, holds, sample};

const GROUP: &str = "machineconfiguration.openshift.io";
const CONFIG: &str = "50-enable-sandboxed-containers-extension";

/// As much of OpenShift's definitions as the operator meets.
fn definition(kind: &str, plural: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{GROUP}") },
        "spec": {
            "group": GROUP, "scope": "Cluster",
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase(),
                "listKind": format!("{kind}List") },
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": { "type": "object",
                            "x-kubernetes-preserve-unknown-fields": true },
                        "status": { "type": "object",
                            "x-kubernetes-preserve-unknown-fields": true },
                    },
                }},
            }],
        },
    })
}

fn api(client: &Client, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(GROUP, "v1", kind);
    Api::all_with(client.clone(), &ApiResource::from_gvk(&kind))
}

fn object(kind: &str, name: &str, labels: &Value, spec: &Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": { "name": name, "labels": labels }, "spec": spec,
    })
}

fn worker_pool() -> Value {
    let spec = json!({
        "nodeSelector": { "matchLabels": { "node-role.kubernetes.io/worker": "" } },
        "machineConfigSelector": { "matchLabels": { format!("{GROUP}/role"): "worker" } },
    });
    object("MachineConfigPool", "worker", &json!({}), &spec)
}

struct OpenShift {
    stage: Stage,
    mco: JoinHandle<()>,
}

impl Drop for OpenShift {
    fn drop(&mut self) {
        self.mco.abort();
    }
}

impl OpenShift {
    async fn new(nodes: usize) -> Self {
        Self::of(Stage::new(nodes).await)
    }

    /// A cluster becomes one of OpenShift's.
    fn of(stage: Stage) -> Self {
        for (kind, plural) in [
            ("MachineConfig", "machineconfigs"),
            ("MachineConfigPool", "machineconfigpools"),
        ] {
            stage.server.load(definition(kind, plural)).unwrap();
        }
        stage.server.load(worker_pool()).unwrap();
        let base = json!({ format!("{GROUP}/role"): "worker" });
        let files = json!({ "config": { "storage": { "files": [{ "path": "/etc/motd" }] } },
            "extensions": null });
        let config = object("MachineConfig", "00-worker", &base, &files);
        stage.server.load(config).unwrap();
        let mco = tokio::spawn(mco(stage.client.clone()));
        Self { stage, mco }
    }

    async fn names(&self, kind: &str) -> Vec<String> {
        let all = api(&self.stage.client, kind);
        let all = all.list(&ListParams::default()).await.unwrap().items;
        all.iter().map(ResourceExt::name_any).collect()
    }
}

/// Turns for ever, one at each change of what it looks at.
async fn mco(client: Client) {
    let quiet = |kind: &str| {
        let news = watcher(api(&client, kind), watcher::Config::default());
        news.default_backoff().map(|_| ()).boxed()
    };
    let nodes: Api<Node> = Api::all(client.clone());
    let nodes = watcher(nodes, watcher::Config::default());
    let mut news = futures_util::stream::select_all([
        quiet("MachineConfig"),
        quiet("MachineConfigPool"),
        nodes.default_backoff().map(|_| ()).boxed(),
    ]);
    while news.next().await.is_some() {
        // Conflicts are the next turn's.
        let _ = turn(&client).await;
    }
}

/// Renders every pool and brings its nodes one change further.
async fn turn(client: &Client) -> Result<(), kube::Error> {
    let (configs, pools) = (
        api(client, "MachineConfig"),
        api(client, "MachineConfigPool"),
    );
    let all = configs.list(&ListParams::default()).await?.items;
    let known: BTreeMap<_, _> = all.iter().map(|own| (own.name_any(), own)).collect();
    let api: Api<Node> = Api::all(client.clone());
    let nodes = api.list(&ListParams::default()).await?.items;
    let listed = pools.list(&ListParams::default()).await?.items;
    let custom = listed.iter().any(|pool| pool.name_any() == "kata-oc");
    for pool in &listed {
        let (name, spec) = (pool.name_any(), &pool.data["spec"]);
        let selector = |key: &str| {
            let selector: LabelSelector = serde_json::from_value(spec[key].clone()).unwrap();
            Selector::try_from(selector).unwrap()
        };
        let taken = selector("machineConfigSelector");
        let sources: Vec<_> = all
            .iter()
            .filter(|own| taken.matches(own.labels()))
            .collect();
        let extensions: Vec<_> = sources
            .iter()
            .flat_map(|own| {
                own.data["spec"]["extensions"]
                    .as_array()
                    .into_iter()
                    .flatten()
            })
            .collect();
        let sources: Vec<_> = sources.iter().map(|own| own.name_any()).collect();
        let target = format!("rendered-{name}-{}", sources.join("-"));
        if !known.contains_key(&target) {
            let mut rendered = object(
                "MachineConfig",
                &target,
                &json!({}),
                &json!({ "extensions": extensions }),
            );
            rendered["metadata"]["ownerReferences"] = json!([{
                "apiVersion": format!("{GROUP}/v1"), "kind": "MachineConfigPool",
                "name": name, "uid": pool.uid().unwrap(), "controller": true,
            }]);
            let rendered = serde_json::from_value(rendered).unwrap();
            configs.create(&PostParams::default(), &rendered).await?;
        }
        let sources: Vec<_> = sources.iter().map(|name| json!({ "name": name })).collect();
        let configuration = json!({ "name": target, "source": sources });
        if spec["configuration"] != configuration {
            let patch = Patch::Merge(json!({ "spec": { "configuration": configuration } }));
            pools.patch(&name, &PatchParams::default(), &patch).await?;
        }
        if spec["paused"] == json!(true) {
            continue;
        }
        let taken = selector("nodeSelector");
        let member = |node: &&Node| {
            let moved = custom && node.labels().contains_key(MEMBER_LABEL);
            taken.matches(node.labels()) && (name == "kata-oc" || !moved)
        };
        let mut most = spec["maxUnavailable"].as_u64().unwrap_or(1);
        for node in nodes.iter().filter(member) {
            let busy = change(&api, node, &target, !extensions.is_empty(), most > 0).await?;
            most = most.saturating_sub(u64::from(busy));
        }
    }
    Ok(())
}

/// One step of a node; the answer is whether it is being changed.
async fn change(
    api: &Api<Node>,
    node: &Node,
    target: &str,
    extended: bool,
    may_begin: bool,
) -> Result<bool, kube::Error> {
    let told = |key: &str| node.annotations().get(&format!("{GROUP}/{key}")).cloned();
    let (now, next) = (told("currentConfig"), told("desiredConfig"));
    let name = node.name_any();
    let write = async |now: &str, next: &str, state: &str| {
        let patch = json!({ "metadata": { "annotations": {
            format!("{GROUP}/currentConfig"): now, format!("{GROUP}/desiredConfig"): next,
            format!("{GROUP}/state"): state, format!("{GROUP}/reason"): "",
        }}});
        let params = PatchParams::default();
        api.patch(&name, &params, &Patch::Merge(patch)).await
    };
    match (now, next) {
        (Some(now), Some(next)) if now != next => {
            let handlers: &[_] = match extended && next == target {
                true => &[json!({ "name": "" }), json!({ "name": "kata" })],
                false => &[json!({ "name": "" })],
            };
            let patch = Patch::Merge(json!({ "status": { "runtimeHandlers": handlers } }));
            api.patch_status(&name, &PatchParams::default(), &patch)
                .await?;
            write(&next, &next, "Done").await?;
            Ok(true)
        }
        (Some(now), _) if now != target && may_begin => {
            write(&now, target, "Working").await?;
            Ok(true)
        }
        (None, _) => write(target, target, "Done").await.map(|_| false),
        _ => Ok(false),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_osc_operators_sample_is_installed_and_removed_on_openshift() {
    let mut openshift = OpenShift::new(3).await;
    let config = sample("samples/kataconfig.yaml");
    assert_eq!(config.spec.node_install, NodeInstall::Auto);
    openshift.stage.start();
    openshift.stage.apply(&config).await;
    openshift.stage.ready().await;

    let stage = &openshift.stage;
    let nodes = stage.api::<Node>().list(&Default::default()).await.unwrap();
    for node in &nodes.items {
        assert_eq!(node.labels()[&runtime_label("kata")], "true");
        assert_eq!(node.labels()[MEMBER_LABEL], "");
        let current = &node.annotations()[&format!("{GROUP}/currentConfig")];
        assert!(current.starts_with("rendered-kata-oc-") && current.contains(CONFIG));
    }
    let own = api(&stage.client, "MachineConfig")
        .get(CONFIG)
        .await
        .unwrap();
    assert_eq!(own.labels()[&format!("{GROUP}/role")], "kata-oc");
    assert_eq!(
        own.data["spec"]["extensions"],
        json!(["sandboxed-containers"])
    );
    stage.api::<RuntimeClass>().get("kata").await.unwrap();
    let kata_nodes = stage.api::<KataNode>().list(&Default::default()).await;
    assert!(kata_nodes.unwrap().items.is_empty(), "agents were asked");

    // A node that joins is taken too.
    let mut fresh = serde_json::to_value(&nodes.items[0]).unwrap();
    fresh["metadata"] = json!({ "name": "node-9",
        "labels": { "node-role.kubernetes.io/worker": "" } });
    fresh["status"]["runtimeHandlers"] = json!([{ "name": "" }]);
    stage.server.load(fresh).unwrap();
    stage
        .until("the fourth", |configs: &[KataConfig]| {
            let status = configs[0].status.clone().unwrap_or_default();
            status.kata_nodes.ready_node_count == 4
        })
        .await;

    let configs = stage.api::<KataConfig>();
    let name = config.name_any();
    configs
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    stage
        .until("the end", |configs: &[KataConfig]| configs.is_empty())
        .await;
    let nodes = stage.api::<Node>().list(&Default::default()).await.unwrap();
    for node in nodes.items {
        assert!(!node.labels().contains_key(MEMBER_LABEL));
        let current = &node.annotations()[&format!("{GROUP}/currentConfig")];
        assert!(current.starts_with("rendered-worker-"), "{current}");
    }
    assert_eq!(openshift.names("MachineConfigPool").await, ["worker"]);
    let configs = openshift.names("MachineConfig").await;
    assert!(!configs.contains(&CONFIG.to_owned()), "{configs:?}");
    openshift.stage.every_right_was_used(true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_node_it_goes_on_on_openshift() {
    let mut openshift = OpenShift::new(4).await;
    let mut config = sample("samples/kataconfig.yaml");
    config.spec.node_install = NodeInstall::MachineConfig;
    openshift.stage.apply(&config).await;
    for told in 1..=4 {
        openshift.stage.start();
        openshift
            .stage
            .until("another node", |nodes: &[Node]| {
                let told_now = nodes
                    .iter()
                    .filter(|n| n.labels().contains_key(MEMBER_LABEL));
                told_now.count() >= told
            })
            .await;
        openshift.stage.kill();
    }
    openshift.stage.start();
    openshift.stage.ready().await;
    openshift
        .stage
        .server
        .faults()
        .drop_watches("machineconfigpools");
    openshift.stage.server.faults().forget_history();
    let configs = openshift.stage.api::<KataConfig>();
    let params = DeleteParams::default();
    configs.delete(&config.name_any(), &params).await.unwrap();
    openshift
        .stage
        .until("the end", |configs: &[KataConfig]| configs.is_empty())
        .await;
    assert_eq!(openshift.names("MachineConfigPool").await, ["worker"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_config_operator_that_comes_later_is_noticed() {
    let mut stage = Stage::new(2).await;
    let mut config = sample("samples/kataconfig.yaml");
    config.spec.node_install = NodeInstall::MachineConfig;
    stage.start();
    stage.apply(&config).await;
    stage
        .until(
            "the missing operator to be told of",
            |configs: &[KataConfig]| configs.iter().any(|config| holds(config, "Blocked")),
        )
        .await;
    let openshift = OpenShift::of(stage);
    openshift.stage.ready().await;
    let configs = openshift.names("MachineConfig").await;
    assert!(configs.contains(&CONFIG.to_owned()), "{configs:?}");
}

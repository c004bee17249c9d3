//! A KataConfig's life, with the operator's own program against an API server
//! that enforces its roles.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod machine_config;
mod stage;

use std::collections::BTreeSet;

use bulkhead_kataconfig::{
    CORDONED_ANNOTATION, FINALIZER, KataConfig, KataNode, MEMBER_LABEL, runtime_label,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use stage::{Stage, USER, holds, sample};

fn labelled(nodes: &[Node], label: &str) -> usize {
    nodes
        .iter()
        .filter(|node| node.labels().contains_key(label))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_osc_operators_sample_is_installed_upgraded_and_removed() {
    let mut stage = Stage::new(3).await;
    let mut config = sample("samples/kataconfig.yaml");
    let name = config.name_any();
    stage.start();
    stage.apply(&config).await;
    stage.ready().await;

    let nodes = stage
        .api::<Node>()
        .list(&Default::default())
        .await
        .unwrap()
        .items;
    assert_eq!(labelled(&nodes, &runtime_label("kata")), 3);
    assert_eq!(labelled(&nodes, MEMBER_LABEL), 3);
    for node in &nodes {
        let taints = node.spec.clone().unwrap().taints.unwrap();
        let keys: Vec<_> = taints.iter().map(|taint| taint.key.as_str()).collect();
        assert_eq!(keys, ["somebody-elses"]);
    }
    let class = stage.api::<RuntimeClass>().get("kata").await.unwrap();
    assert_eq!(class.handler, "kata");
    assert_eq!(
        class.overhead.unwrap().pod_fixed.unwrap()["memory"].0,
        "350Mi"
    );
    let known = stage.api::<KataConfig>().get(&name).await.unwrap();
    assert_eq!(known.finalizers(), [FINALIZER]);
    assert_eq!(known.status.unwrap().kata_nodes.ready_node_count, 3);

    // A pod that runs through all that follows.
    let pods = kube::Api::<Pod>::namespaced(stage.client.clone(), "default");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" },
        "spec": { "runtimeClassName": "kata", "nodeName": "node-1",
            "containers": [{ "name": "web", "image": "nginx" }] },
        "status": { "phase": "Running" },
    });
    let pod: Pod = serde_json::from_value(pod).unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();

    // Another version, node by node.
    config.spec.version = Some("2.0.0".into());
    stage.apply(&config).await;
    stage.ready().await;
    let kata_nodes = stage
        .api::<KataNode>()
        .list(&Default::default())
        .await
        .unwrap()
        .items;
    let versions: BTreeSet<_> = kata_nodes
        .iter()
        .map(|node| node.status.clone().unwrap().version)
        .collect();
    assert_eq!(versions, BTreeSet::from([Some("2.0.0".to_owned())]));

    // It keeps its node from being dismantled, and is named.
    stage
        .api::<KataConfig>()
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    stage
        .until("Blocked", |configs: &[KataConfig]| {
            configs.iter().any(|config| {
                let status = config.status.clone().unwrap_or_default();
                let blocked = status.conditions.iter().find(|c| c.type_ == "Blocked");
                holds(config, "Blocked") && blocked.unwrap().message.contains("default/web")
            })
        })
        .await;
    stage
        .until("the others' end", |nodes: &[KataNode]| nodes.len() == 1)
        .await;
    let nodes = stage
        .api::<Node>()
        .list(&Default::default())
        .await
        .unwrap()
        .items;
    assert_eq!(labelled(&nodes, &runtime_label("kata")), 0);

    pods.delete("web", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    stage
        .until("the end", |configs: &[KataConfig]| configs.is_empty())
        .await;
    stage
        .until("clean nodes", |nodes: &[KataNode]| nodes.is_empty())
        .await;
    stage
        .until("no class", |classes: &[RuntimeClass]| classes.is_empty())
        .await;
    let nodes = stage
        .api::<Node>()
        .list(&Default::default())
        .await
        .unwrap()
        .items;
    assert_eq!(labelled(&nodes, MEMBER_LABEL), 0);
    stage.every_right_was_used(false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_is_killed_goes_on_where_it_was() {
    let mut stage = Stage::new(6).await;
    let mut config = sample("samples/kataconfig.yaml");
    config.spec.rollout.cordon = true;
    stage.apply(&config).await;
    for told in 1..=6 {
        stage.start();
        stage
            .until("another node", |nodes: &[KataNode]| {
                nodes
                    .iter()
                    .filter(|node| node.spec.version.is_some())
                    .count()
                    >= told
            })
            .await;
        stage.kill();
    }
    stage.start();
    stage.ready().await;
    let classes = stage
        .api::<RuntimeClass>()
        .list(&Default::default())
        .await
        .unwrap();
    assert_eq!(classes.items.len(), 1);
    stage
        .until("open nodes", |nodes: &[Node]| {
            nodes.iter().all(|node| {
                let spec = node.spec.clone().unwrap_or_default();
                let marked = node.annotations().contains_key(CORDONED_ANNOTATION);
                !marked && spec.unschedulable.is_none()
            })
        })
        .await;
    let closed = stage.server.requests().into_iter();
    let patches = closed.filter(|own| own.user == USER && own.verb == "patch");
    let patches = patches.filter(|own| own.resource == "nodes").count();
    // Closed, labelled, opened.
    assert!(patches >= 18, "{patches}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_watches_and_refused_writes_are_lived_through() {
    use bulkhead_apiserver::Fault;
    let mut stage = Stage::new(4).await;
    stage.server.faults().seed(4);
    stage
        .server
        .faults()
        .add(Fault::status(500).on("patch", "katanodes").times(3));
    stage
        .server
        .faults()
        .add(Fault::status(409).on("patch", "nodes").times(2));
    stage.start();
    stage.apply(&sample("samples/kataconfig.yaml")).await;
    stage
        .until("the first node", |nodes: &[KataNode]| {
            nodes.iter().any(|node| node.spec.version.is_some())
        })
        .await;
    stage.server.faults().drop_watches("nodes");
    stage.server.faults().forget_history();
    stage.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_refused_for_good_is_told_where_people_look() {
    use bulkhead_apiserver::Fault;
    let mut stage = Stage::new(2).await;
    let refuse = Fault::status(403).on("patch", "katanodes").by(USER);
    stage.server.faults().add(refuse);
    stage.start();
    stage.apply(&sample("samples/kataconfig.yaml")).await;
    stage
        .until("Degraded", |configs: &[KataConfig]| {
            configs.iter().any(|config| {
                let status = config.status.clone().unwrap_or_default();
                let found = status.conditions.iter().find(|c| c.type_ == "Degraded");
                let told = found.is_some_and(|c| c.message.contains("KataNode node-0: injected"));
                told && holds(config, "Degraded")
            })
        })
        .await;
    stage.server.faults().clear();
    stage.ready().await;
    stage
        .until("nothing to tell", |configs: &[KataConfig]| {
            configs.iter().all(|config| !holds(config, "Degraded"))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_provided_is_answered_on_the_object() {
    let mut stage = Stage::new(1).await;
    let mut config = sample("samples/kataconfig.yaml");
    config.spec.node_install = bulkhead_kataconfig::NodeInstall::MachineConfig;
    stage.start();
    stage.apply(&config).await;
    stage
        .until("Blocked", |configs: &[KataConfig]| {
            configs.iter().any(|config| holds(config, "Blocked"))
        })
        .await;
    let kata_nodes = stage
        .api::<KataNode>()
        .list(&Default::default())
        .await
        .unwrap();
    assert!(kata_nodes.items.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_it_lets_the_lease_go() {
    let mut stage = Stage::new(1).await;
    stage.start();
    stage.apply(&sample("samples/kataconfig.yaml")).await;
    stage.ready().await;
    let leases = kube::Api::<Lease>::namespaced(stage.client.clone(), "bulkhead-system");
    let held = leases.get("bulkhead-operator").await.unwrap().spec.unwrap();
    assert_eq!(held.holder_identity.as_deref(), Some("operator-0"));
    assert!(stage.stop().success());
    let free = leases.get("bulkhead-operator").await.unwrap().spec.unwrap();
    assert_eq!(free.holder_identity, None);
}

#[test]
fn it_prints_the_definitions_it_was_made_with() {
    let program = env!("CARGO_BIN_EXE_bulkhead-operator");
    let output = std::process::Command::new(program)
        .arg("crds")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let printed: Vec<CustomResourceDefinition> = text
        .split("---\n")
        .filter(|part| !part.is_empty())
        .map(|part| serde_saphyr::from_str(part).unwrap())
        .collect();
    assert_eq!(printed, bulkhead_kataconfig::crds());
}

/// Prints what a thousand nodes cost, for `cargo xtask bench --operator`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_thousand_nodes_cost() {
    let mut stage = Stage::new(1000).await;
    let mut config = sample("samples/kataconfig.yaml");
    config.spec.rollout.max_unavailable =
        k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String("10%".into());
    let begun = std::time::Instant::now();
    stage.start();
    stage.apply(&config).await;
    stage.ready().await;
    let ready = begun.elapsed();
    let requests = || {
        let all = stage.server.requests().into_iter();
        all.filter(|request| request.user == USER).count()
    };
    let to_ready = requests();
    stage.server.clear_requests();
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    let at_rest = requests();
    let mut changes = Vec::new();
    for round in 0..10 {
        let name = format!("node-{}", round * 100);
        for (phase, failed) in [("Failed", 1), ("Ready", 0)] {
            changes.push(stage.told_after(&name, phase, failed).await);
        }
    }
    changes.sort_unstable();
    let millis = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
    let figures = json!({
        "nodes": 1000,
        "ready_s": ready.as_secs_f64(),
        "requests_until_ready": to_ready,
        "requests_in_a_minute_at_rest": at_rest,
        "resident_kib": stage.memory("VmRSS"),
        "resident_peak_kib": stage.memory("VmHWM"),
        "change_to_status_ms": {
            "median": millis(changes[changes.len() / 2]),
            "most": millis(changes[changes.len() - 1]),
        },
    });
    println!("\nfigures: {figures}");
}

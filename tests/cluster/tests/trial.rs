//! The trial itself: against the test API server, and where it cannot succeed.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Command, Output, Stdio};

use bulkhead_apiserver::{Options, Server};
use serde_json::{Value, json};

fn trial(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bulkhead-cluster-e2e"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn from_a_cluster_to_the_same_cluster() {
    let output = trial(&["--stand-in", "--patience", "60"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    let told = [
        "deploy/ is applied",
        "the KataConfig is Ready, and it is true",
        "not tried: a pod",
        "hostNetwork was refused",
        "the pod keeps its node",
        "the KataConfig is gone",
        "the cluster is as it was",
    ];
    let mut rest = out.as_str();
    for part in told {
        let at = rest.find(part).unwrap_or_else(|| panic!("`{part}`: {out}"));
        rest = &rest[at..];
    }
}

/// A cluster with one worker, and everything in it.
async fn cluster() -> (Server, tempfile::TempDir, String) {
    let server = Server::start(Options::default()).await.unwrap();
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": "worker-1" },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    server.load(node).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubeconfig");
    std::fs::write(&path, server.kubeconfig(None)).unwrap();
    let path = path.display().to_string();
    (server, dir, path)
}

/// What is left of a trial, if something is.
fn everything(server: &Server) -> Vec<Value> {
    let kinds = [
        ("", "nodes"),
        ("", "namespaces"),
        ("", "serviceaccounts"),
        ("apps", "deployments"),
        ("apps", "daemonsets"),
        ("policy", "poddisruptionbudgets"),
        ("networking.k8s.io", "networkpolicies"),
        ("rbac.authorization.k8s.io", "clusterroles"),
        ("rbac.authorization.k8s.io", "clusterrolebindings"),
        ("rbac.authorization.k8s.io", "roles"),
        ("rbac.authorization.k8s.io", "rolebindings"),
        ("apiextensions.k8s.io", "customresourcedefinitions"),
        (
            "admissionregistration.k8s.io",
            "validatingadmissionpolicies",
        ),
        ("node.k8s.io", "runtimeclasses"),
    ];
    let all = kinds
        .iter()
        .flat_map(|(group, kind)| server.objects(group, kind));
    let mut all: Vec<Value> = all.collect();
    for object in &mut all {
        object["metadata"]["resourceVersion"] = Value::Null;
        object["metadata"]["managedFields"] = Value::Null;
        // No labels are no labels.
        let labels = object["metadata"]["labels"].as_object();
        if labels.is_none_or(serde_json::Map::is_empty) {
            object["metadata"]["labels"] = Value::Null;
        }
    }
    all
}

/// A trial, while the server in this process answers.
async fn blocking(args: [&[&str]; 2]) -> Output {
    let args: Vec<String> = args.concat().iter().map(|arg| (*arg).to_owned()).collect();
    let trial = tokio::task::spawn_blocking(move || {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        trial(&args)
    });
    trial.await.unwrap()
}

const IMAGES: [&str; 4] = ["--operator-image", "o", "--node-agent-image", "a"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_that_fails_takes_everything_away() {
    let (server, _dir, kubeconfig) = cluster().await;
    let before = everything(&server);
    // Nobody runs the operator's pods, so that it never is available.
    let output = blocking([
        &IMAGES[..],
        &["--kubeconfig", &kubeconfig, "--patience", "1"],
    ])
    .await;
    let err = text(&output.stderr);
    assert!(
        !output.status.success() && err.contains("an operator did not come"),
        "{err}"
    );
    assert!(!err.contains("not as it was"), "{err}");
    assert!(text(&output.stdout).contains("deploy/ is applied"));
    assert_eq!(everything(&server), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_already_is_not_touched() {
    let (server, _dir, kubeconfig) = cluster().await;
    let class = json!({ "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
        "metadata": { "name": "kata" }, "handler": "somebodys" });
    server.load(class).unwrap();
    let before = everything(&server);
    let output = blocking([&IMAGES[..], &["--kubeconfig", &kubeconfig]]).await;
    let err = text(&output.stderr);
    assert!(
        !output.status.success() && err.contains("RuntimeClass kata"),
        "{err}"
    );
    assert_eq!(everything(&server), before);
}

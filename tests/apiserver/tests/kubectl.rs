//! The server as `kubectl` sees it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Stdio;

use bulkhead_apiserver::{Options, Server};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

struct Kubectl {
    server: Server,
    home: tempfile::TempDir,
}

impl Kubectl {
    async fn new() -> Self {
        Self {
            server: Server::start(Options::default()).await.unwrap(),
            home: tempfile::tempdir().unwrap(),
        }
    }

    /// Runs it; gives what it printed, and whether it succeeded.
    async fn try_run(&self, arguments: &[&str], input: Option<&Value>) -> (String, bool) {
        let program = std::env::var("BULKHEAD_KUBECTL").unwrap_or_else(|_| "kubectl".into());
        let child = Command::new(program)
            .arg(format!("--server={}", self.server.url()))
            .args(arguments)
            .env("HOME", self.home.path())
            .env_remove("KUBECONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            panic!("kubectl is missing: apt-get install kubernetes-client");
        };
        let mut stdin = child.stdin.take().unwrap();
        if let Some(input) = input {
            stdin.write_all(input.to_string().as_bytes()).await.unwrap();
        }
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8(text).unwrap(), output.status.success())
    }

    async fn run(&self, arguments: &[&str], input: Option<&Value>) -> String {
        let (text, success) = self.try_run(arguments, input).await;
        assert!(success, "{arguments:?}: {text}");
        text
    }
}

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "boats.sea.example" },
        "spec": {
            "group": "sea.example", "scope": "Cluster",
            "names": { "plural": "boats", "kind": "Boat", "shortNames": ["bt"] },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": [
                    { "name": "Crew", "type": "integer", "jsonPath": ".spec.crew" },
                    { "name": "Afloat", "type": "string",
                      "jsonPath": ".status.conditions[?(@.type==\"Afloat\")].status" },
                ],
                "schema": { "openAPIV3Schema": { "type": "object", "properties": {
                    "spec": { "type": "object", "properties": {
                        "crew": { "type": "integer", "minimum": 1 },
                        "name": { "type": "string" },
                    }},
                    "status": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                }}},
            }],
        },
    })
}

fn boat(crew: i64) -> Value {
    json!({
        "apiVersion": "sea.example/v1", "kind": "Boat", "metadata": { "name": "a" },
        "spec": { "crew": crew },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_custom_resource_lives_and_ends() {
    let kubectl = Kubectl::new().await;
    let from_input = ["create", "--validate=false", "-f", "-"];
    kubectl.run(&from_input, Some(&definition())).await;
    let crd = "crd/boats.sea.example";
    kubectl
        .run(
            &["wait", "--for=condition=Established", crd, "--timeout=20s"],
            None,
        )
        .await;
    kubectl
        .run(&["apply", "--validate=false", "-f", "-"], Some(&boat(2)))
        .await;

    let table = kubectl.run(&["get", "bt"], None).await;
    let lines: Vec<Vec<_>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines,
        [vec!["NAME", "CREW", "AFLOAT"], vec!["a", "2"]],
        "{table}"
    );

    let text = kubectl
        .run(&["apply", "--validate=false", "-f", "-"], Some(&boat(3)))
        .await;
    assert!(text.contains("configured"), "{text}");
    let (text, success) = kubectl
        .try_run(&["apply", "--validate=false", "-f", "-"], Some(&boat(0)))
        .await;
    assert!(
        !success && text.contains("should be greater than or equal to 1"),
        "{text}"
    );
    kubectl.run(&["label", "boat/a", "colour=red"], None).await;
    let crew = [
        "get",
        "boats",
        "-l",
        "colour in (red)",
        "-o",
        "jsonpath={.items[*].spec.crew}",
    ];
    assert_eq!(kubectl.run(&crew, None).await, "3");
    kubectl
        .run(&["delete", "boat/a", "--timeout=20s"], None)
        .await;
    let (text, success) = kubectl.try_run(&["get", "boat", "a"], None).await;
    assert!(
        !success && text.contains("boats.sea.example \"a\" not found"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_labelled_tainted_and_awaited() {
    let kubectl = Kubectl::new().await;
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" },
        "status": { "conditions": [{ "type": "Ready", "status": "False" }] },
    });
    kubectl
        .run(&["create", "--validate=false", "-f", "-"], Some(&node))
        .await;
    let table = kubectl.run(&["get", "nodes"], None).await;
    assert!(table.starts_with("NAME"), "{table}");
    assert!(table.contains("n1") && table.contains("AGE"), "{table}");

    kubectl.run(&["label", "node", "n1", "x=y"], None).await;
    kubectl
        .run(&["taint", "nodes", "n1", "k=v:NoSchedule"], None)
        .await;
    kubectl.run(&["cordon", "n1"], None).await;
    let taints = [
        "get",
        "node",
        "n1",
        "-o",
        "jsonpath={.spec.taints[*].key} {.spec.unschedulable}",
    ];
    assert_eq!(kubectl.run(&taints, None).await, "k true");

    let waiting = ["wait", "--for=condition=Ready", "node/n1", "--timeout=30s"];
    let wait = kubectl.run(&waiting, None);
    let ready = async {
        // The wait watches from what it has read, so it does not matter which is first.
        let patch =
            "[{\"op\":\"replace\",\"path\":\"/status/conditions/0/status\",\"value\":\"True\"}]";
        plain_patch(&kubectl.server.url(), "/api/v1/nodes/n1/status", patch).await;
    };
    let (text, ()) = tokio::join!(wait, ready);
    assert!(text.contains("condition met"), "{text}");
    kubectl
        .run(
            &[
                "patch",
                "node",
                "n1",
                "-p",
                "{\"spec\":{\"unschedulable\":null}}",
            ],
            None,
        )
        .await;
    kubectl.run(&["delete", "node", "n1"], None).await;
    let left = kubectl.run(&["get", "nodes", "-o", "name"], None).await;
    assert_eq!(left, "");
}

/// `kubectl` of Debian cannot patch a status, so this is done without it.
async fn plain_patch(url: &str, path: &str, patch: &str) {
    use tokio::io::AsyncReadExt;
    let address = url.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!(
        "PATCH {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json-patch+json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{patch}",
        patch.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_side_apply_names_who_is_in_the_way() {
    let kubectl = Kubectl::new().await;
    let map = |value: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "c", "namespace": "default" }, "data": { "k": value },
        })
    };
    let apply = |manager: &'static str| {
        [
            "apply",
            "--server-side",
            "--validate=false",
            manager,
            "-f",
            "-",
        ]
    };
    kubectl
        .run(&apply("--field-manager=one"), Some(&map("1")))
        .await;
    let (text, success) = kubectl
        .try_run(&apply("--field-manager=two"), Some(&map("2")))
        .await;
    assert!(!success && text.contains("conflict with \"one\""), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_drained() {
    let kubectl = Kubectl::new().await;
    let pod = |name: &str, node: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
            "spec": { "nodeName": node, "containers": [] },
        })
    };
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" } });
    for object in [node, pod("here", "n1"), pod("there", "n2")] {
        kubectl.server.load(object).unwrap();
    }
    kubectl
        .run(&["drain", "n1", "--force", "--timeout=30s"], None)
        .await;
    let left = kubectl.run(&["get", "pods", "-o", "name"], None).await;
    assert_eq!(left, "pod/there\n");
    let evicted = |request: &bulkhead_apiserver::Recorded| {
        request.subresource == "eviction" && request.name == "here"
    };
    assert!(kubectl.server.requests().iter().any(evicted));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_told_what_they_may_not() {
    let kubectl = Kubectl::new().await;
    let api = "rbac.authorization.k8s.io/v1";
    for object in [
        json!({ "apiVersion": api, "kind": "ClusterRole", "metadata": { "name": "r" },
                "rules": [{ "apiGroups": [""], "resources": ["nodes"], "verbs": ["get"] }] }),
        json!({ "apiVersion": api, "kind": "ClusterRoleBinding", "metadata": { "name": "r" },
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                             "name": "r" },
                "subjects": [{ "kind": "User", "name": "bob" }] }),
    ] {
        kubectl.server.load(object).unwrap();
    }
    kubectl.server.enforce_rbac(true);
    let (text, _) = kubectl
        .try_run(&["get", "node", "x", "--as=bob"], None)
        .await;
    assert!(text.contains("nodes \"x\" not found"), "{text}");
    let (text, success) = kubectl
        .try_run(&["delete", "node", "x", "--as=bob"], None)
        .await;
    assert!(
        !success && text.contains("User \"bob\" cannot delete resource \"nodes\""),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubeconfig_names_the_user() {
    let kubectl = Kubectl::new().await;
    let path = kubectl.home.path().join("config");
    std::fs::write(&path, kubectl.server.kubeconfig(Some("bob"))).unwrap();
    let config = format!("--kubeconfig={}", path.display());
    kubectl.run(&[&config, "get", "nodes"], None).await;
    let users = kubectl
        .server
        .requests()
        .into_iter()
        .map(|request| request.user);
    assert_eq!(users.collect::<Vec<_>>(), ["bob"]);
}

//! The program itself, against an API server in memory.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use bulkhead_apiserver::{Options, Server};
use bulkhead_kataconfig::{KataConfig, KataNode, crds};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Config, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

struct Stage {
    server: Server,
    home: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        let server = Server::start(Options::default()).await.unwrap();
        for crd in crds() {
            server.load(serde_json::to_value(crd).unwrap()).unwrap();
        }
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("config"), server.kubeconfig(None)).unwrap();
        Self { server, home }
    }

    fn load(&self, object: Value) {
        self.server.load(object).unwrap();
    }

    fn client(&self) -> Client {
        Client::try_from(Config::new(self.server.url().parse().unwrap())).unwrap()
    }

    /// An object whose status only its subresource takes.
    async fn put<K>(&self, object: Value)
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        self.load(object.clone());
        let api: Api<K> = Api::all(self.client());
        let name = object["metadata"]["name"].as_str().unwrap();
        let status = Patch::Merge(json!({ "status": object["status"] }));
        let params = PatchParams::default();
        api.patch_status(name, &params, &status).await.unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-bulkhead"));
        command
            .args(arguments)
            .env("KUBECONFIG", self.home.path().join("config"))
            .current_dir(self.home.path())
            .stdin(Stdio::null());
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }

    async fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }
}

fn condition(kind: &str, status: &str, message: &str) -> Value {
    json!({ "type": kind, "status": status, "reason": "Test", "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1 })
}

fn kata_config() -> Value {
    json!({
        "apiVersion": "kataconfiguration.openshift.io/v1", "kind": "KataConfig",
        "metadata": { "name": "example", "generation": 1 },
        "spec": { "kataConfigPoolSelector": { "matchLabels": { "zone": "a" } } },
        "status": {
            "observedGeneration": 1,
            "kataNodes": { "nodeCount": 3, "readyNodeCount": 1, "installed": ["one"],
                "failedToInstall": ["two"], "waitingToUninstall": ["three"] },
            "conditions": [condition("Progressing", "True", "1 nodes are left to install"),
                condition("Degraded", "True", "failed, see their KataNodes: two")],
            "plan": { "total": 7, "steps": [{ "node": "three", "action": "uninstall",
                "restarts": ["the node's container runtime"],
                "blockedBy": ["shop/web-1"], "waitingFor": "running pods to end" }] },
        },
    })
}

fn kata_node(name: &str, status: &Value) -> Value {
    json!({
        "apiVersion": "kataconfiguration.openshift.io/v1alpha1", "kind": "KataNode",
        "metadata": { "name": name, "generation": 1 },
        "spec": { "kataConfig": "example", "action": "install", "version": "1.0.0" },
        "status": status,
    })
}

fn node(name: &str, labels: &Value, annotations: &Value, ready: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "labels": labels, "annotations": annotations },
        "status": { "conditions": [{ "type": "Ready", "status": ready,
            "message": "the kubelet is silent" }] },
    })
}

async fn example() -> Stage {
    let stage = Stage::new().await;
    stage.put::<KataConfig>(kata_config()).await;
    let worker = json!({ "node-role.kubernetes.io/worker": "", "zone": "a" });
    for name in ["one", "two", "three"] {
        stage.load(node(name, &worker, &json!({}), "True"));
    }
    stage
        .put::<KataNode>(kata_node(
            "one",
            &json!({ "phase": "Ready", "version": "1.0.0", "handlers": ["kata"],
            "observedGeneration": 1 }),
        ))
        .await;
    stage
        .put::<KataNode>(kata_node(
            "two",
            &json!({ "phase": "Failed", "lastError": "the disk\u{1b}[2J is full",
            "observedGeneration": 1 }),
        ))
        .await;
    stage
        .put::<KataNode>(kata_node("three", &json!({ "observedGeneration": 0 })))
        .await;
    stage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_plan_say_what_the_objects_say() {
    let stage = example().await;
    let table = stage.says(&["status"]).await;
    assert!(
        table.contains("example      1       3       Degraded"),
        "{table}"
    );
    assert!(table.contains("the disk [2J is full"), "{table:?}");
    let json: Value =
        serde_json::from_str(&stage.says(&["status", "--format", "json"]).await).unwrap();
    assert_eq!(
        json["kataConfigs"][0]["status"]["kataNodes"]["nodeCount"],
        3
    );
    assert_eq!(json["kataNodes"].as_array().unwrap().len(), 3);
    let plan = stage.says(&["plan"]).await;
    for part in [
        "three",
        "uninstall",
        "container runtime",
        "shop/web-1",
        "6 steps more",
    ] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    let json: Value =
        serde_json::from_str(&stage.says(&["plan", "--format", "json"]).await).unwrap();
    assert_eq!(json["kataConfigs"][0]["plan"]["total"], 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_says_why_and_what_to_do() {
    let stage = example().await;
    let one = stage.says(&["explain", "one"]).await;
    assert_eq!(
        one,
        "one: installed (KataConfig example)\n  why: it serves kata in 1.0.0\n"
    );
    let two = stage.says(&["explain", "two"]).await;
    assert!(two.starts_with("two: failedToInstall"), "{two}");
    assert!(
        two.contains("try 1 to install failed: the disk [2J is full"),
        "{two:?}"
    );
    assert!(two.contains("do:"), "{two}");
    let three = stage.says(&["explain", "three"]).await;
    assert!(
        three.contains("running pods keep it: shop/web-1"),
        "{three}"
    );
    assert!(three.contains("has not answered"), "{three}");

    let elsewhere = json!({ "node-role.kubernetes.io/worker": "", "zone": "b" });
    stage.load(node("four", &elsewhere, &json!({}), "False"));
    let four = stage.says(&["explain", "four"]).await;
    assert!(
        four.starts_with("four: not part of any KataConfig"),
        "{four}"
    );
    assert!(
        four.contains("kataConfigPoolSelector of example does not match"),
        "{four}"
    );
    assert!(four.contains("the kubelet is silent"), "{four}");
    let mco = "machineconfiguration.openshift.io";
    let annotations = json!({ format!("{mco}/state"): "Degraded",
        format!("{mco}/currentConfig"): "rendered-worker-1",
        format!("{mco}/desiredConfig"): "rendered-kata-oc-1",
        format!("{mco}/reason"): "no such extension" });
    stage.load(node("five", &json!({}), &annotations, "True"));
    let five = stage.says(&["explain", "five", "--format", "json"]).await;
    let five: Value = serde_json::from_str(&five).unwrap();
    let why = five["why"].to_string();
    assert!(
        why.contains("rendered-worker-1 to rendered-kata-oc-1: no such extension"),
        "{why}"
    );

    let output = stage.run(&["explain", "nobody"]).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && error.contains("there is no node `nobody`"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_ends_when_nothing_is_left_to_do() {
    let stage = example().await;
    let mut child = stage
        .command(&["status", "--watch"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    // It has begun to tell before anything changes.
    let mut begin = [0; 7];
    let (mut out, begin) = tokio::task::spawn_blocking(move || {
        out.read_exact(&mut begin).unwrap();
        (out, begin)
    })
    .await
    .unwrap();
    assert_eq!(&begin, b"example");
    let api: Api<KataConfig> = Api::all(stage.client());
    let status = |done: &str, ready: u32| {
        json!({ "status": {
            "kataNodes": { "readyNodeCount": ready },
            "conditions": [condition("Progressing", done, "2 nodes are left to install"),
                condition("Ready", if done == "True" { "False" } else { "True" }, "all is well")],
        }})
    };
    for (done, ready) in [("True", 2), ("False", 3)] {
        let patch = Patch::Merge(status(done, ready));
        let params = PatchParams::default();
        api.patch_status("example", &params, &patch).await.unwrap();
    }
    let rest = tokio::task::spawn_blocking(move || {
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert!(child.wait().unwrap().success());
        rest
    })
    .await
    .unwrap();
    assert!(
        rest.contains("[########################] 3/3 Ready: all is well"),
        "{rest}"
    );
}

fn unpack(file: &Path) -> BTreeMap<String, String> {
    let file = std::fs::File::open(file).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().file_name().unwrap().to_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (name.into_string().unwrap(), text)
    });
    entries.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collect_takes_no_secret_and_says_what_is_missing() {
    let stage = example().await;
    stage.load(json!({ "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": "bulkhead-system" } }));
    stage.load(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "operator", "namespace": "bulkhead-system" },
        "spec": { "containers": [{ "name": "operator", "image": "operator:1",
            "args": ["--token=s3cret"], "env": [{ "name": "A", "value": "s3cret" }] }] },
    }));
    let archive = stage.home.path().join("bundle.tar.gz");
    let path = archive.to_str().unwrap();
    assert_eq!(
        stage.says(&["collect", "-o", path]).await,
        format!("{path}\n")
    );
    let files = unpack(&archive);
    for name in [
        "kataconfigs.json",
        "katanodes.json",
        "nodes.json",
        "pods.json",
        "versions.json",
    ] {
        assert!(files.contains_key(name), "{name} of {:?}", files.keys());
    }
    assert!(files["pods.json"].contains("operator:1"));
    assert!(!files.values().any(|text| text.contains("s3cret")));
    let left_out = &files["left-out.txt"];
    assert!(left_out.contains("environment variables"), "{left_out}");
    assert!(left_out.contains("machineconfigpools.json: "), "{left_out}");
    // Nothing is overwritten.
    let again = stage.run(&["collect", "-o", path]).await;
    assert!(!again.status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_cluster_it_says_how_to_name_one() {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_kubectl-bulkhead"))
        .args(["status", "--kubeconfig", "/nowhere/config"])
        .env_clear()
        .env("HOME", home.path())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(error.contains("--kubeconfig"), "{error}");
}

#[test]
fn completion_and_man_pages_are_written() {
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let program = env!("CARGO_BIN_EXE_kubectl-bulkhead");
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run(&["completion", "bash"]).contains("kubectl-bulkhead"));
    run(&["man", home.path().to_str().unwrap()]);
    let page = home.path().join("kubectl-bulkhead-explain.1");
    assert!(std::fs::read_to_string(page).unwrap().contains("explain"));
}

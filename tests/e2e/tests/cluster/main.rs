//! A cluster's administrator writes a KataConfig, and pods of a node run in
//! machines; deletes it, and the node is as it was. With the operator's and
//! the agent's own programs, a real containerd, and an API server that
//! enforces their roles.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod picture;
mod prometheus;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_apiserver::{Options, Server};
use bulkhead_e2e::Node;
use prometheus::{Job, Prometheus, said};
use serde_json::{Value, json};

const GROUP: &str = "kataconfiguration.openshift.io";
/// The identity of the machine, in its machine-id(5).
const MACHINE: &str = "0123456789abcdef0123456789abcdef";
/// Longest anything here may take, a machine emulated; a hang is a failure.
const HANG: Duration = Duration::from_secs(180);

/// The objects of a file of `deploy/`.
fn deploy(file: &str) -> Vec<Value> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let text = std::fs::read_to_string(dir.join(file)).unwrap();
    text.split("\n---\n")
        .map(|part| serde_saphyr::from_str(part).unwrap())
        .collect()
}

struct Cluster {
    server: Server,
    node: Node,
    programs: Vec<Child>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
        if std::thread::panicking() {
            for kind in ["kataconfigs", "katanodes"] {
                eprintln!("{kind}: {:#?}", self.server.objects(GROUP, kind));
            }
        }
    }
}

impl Cluster {
    async fn new() -> Self {
        let node = Node::bare().await;
        std::fs::write(node.host().join("etc/machine-id"), format!("{MACHINE}\n")).unwrap();
        let server = Server::start(Options::default()).await.unwrap();
        let files = [
            "crds/kataconfigs.yaml",
            "crds/katanodes.yaml",
            "operator/rbac.yaml",
            "node-agent/rbac.yaml",
        ];
        for object in files.iter().flat_map(|file| deploy(file)) {
            server.load(object).unwrap();
        }
        server.load(worker()).unwrap();
        server.enforce_rbac(true);
        Self {
            server,
            node,
            programs: Vec::new(),
        }
    }

    /// Starts one of the programs, under its own service account, and returns
    /// where it tells its metrics.
    fn start(&mut self, name: &str, args: &[&str]) -> String {
        let program = bulkhead_e2e::program().with_file_name(name);
        assert!(
            program.exists(),
            "`{}`: run `cargo xtask test`",
            program.display()
        );
        let kubeconfig = self.node.path().join(name);
        let user = format!("system:serviceaccount:bulkhead-system:{name}");
        std::fs::write(&kubeconfig, self.server.kubeconfig(Some(&user))).unwrap();
        let started = Command::new(program)
            .args(args)
            .args(["--metrics-address", "127.0.0.1:0"])
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut started = started.unwrap();
        let address = said(started.stderr.take().unwrap(), "serving metrics address=");
        self.programs.push(started);
        address
    }

    fn start_operator(&mut self) -> String {
        self.start("bulkhead-operator", &["run"])
    }

    /// Starts the exporter of the node's pods.
    fn start_monitor(&mut self) -> String {
        let started = Command::new(bulkhead_e2e::program())
            .args(["monitor", "--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let mut started = started.unwrap();
        let url = said(started.stdout.take().unwrap(), "listening on http://");
        self.programs.push(started);
        url.trim_end_matches("/metrics").to_owned()
    }

    fn start_agent(&mut self) -> String {
        let at = |name: &str| self.node.path().join(name).display().to_string();
        let (root, socket, restart) = (at("host"), at("containerd.sock"), at("restart"));
        let args = [
            ["--node-name", "worker-1"],
            ["--host-root", &root],
            ["--socket", &socket],
            ["--restart-with", &restart],
            ["--check-with", "containerd"],
            ["--set", "accelerator=tcg"],
        ];
        self.start(
            "bulkhead-node-agent",
            &[&args.concat()[..], &["--allow-emulation"]].concat(),
        )
    }

    fn first(&self, group: &str, kind: &str) -> Value {
        self.server.objects(group, kind).pop().unwrap_or_default()
    }

    /// Asks until something holds, as `kubectl wait` does.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + HANG;
        while !holds(self) {
            assert!(Instant::now() < deadline, "{what} never came");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The message of a condition of the KataConfig, while it holds.
    fn condition(&self, kind: &str) -> Option<String> {
        let config = self.first(GROUP, "kataconfigs");
        let all = config["status"]["conditions"].as_array()?.clone();
        let mut all = all.into_iter();
        let found = all.find(|one| one["type"] == kind && one["status"] == "True")?;
        Some(found["message"].as_str()?.to_owned())
    }

    /// Deletes an object as its administrator.
    fn delete(&self, path: &str) {
        self.ask("DELETE", &format!("{path}?gracePeriodSeconds=0"), "");
    }

    /// Gives an object another annotation, as its administrator.
    fn annotate(&self, path: &str, value: &str) {
        let change = json!({ "metadata": { "annotations": { "example.org/note": value } } });
        self.ask("PATCH", path, &change.to_string());
    }

    fn ask(&self, method: &str, path: &str, body: &str) {
        let address = self.server.url().replace("http://", "");
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
             Content-Type: application/merge-patch+json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

fn worker() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": "worker-1", "labels": { "node-role.kubernetes.io/worker": "" } },
        "status": {
            "nodeInfo": {
                "machineID": MACHINE, "architecture": "amd64", "bootID": "",
                "containerRuntimeVersion": "containerd://1.6.20", "kernelVersion": "6.1",
                "kubeProxyVersion": "", "kubeletVersion": "v1.29.0", "operatingSystem": "linux",
                "osImage": "Debian", "systemUUID": "",
            },
            "conditions": [{ "type": "Ready", "status": "True",
                "lastTransitionTime": "2026-01-01T00:00:00Z" }],
        },
    })
}

/// Every query of every panel has something to show, and is drawn. `stir` gives
/// the operator something to decide: a rate is of what was counted while
/// somebody looked.
async fn draw_dashboards(prometheus: &Prometheus, stir: impl Fn(&str)) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/dashboards");
    std::fs::create_dir_all(&dir).unwrap();
    for name in ["fleet", "pod"] {
        let file = format!("{name}.json");
        let deadline = Instant::now() + HANG;
        let panels = loop {
            let panels = prometheus.dashboard(&file);
            let empty = prometheus::empty(&panels);
            if empty.is_empty() {
                break panels;
            }
            assert!(
                Instant::now() < deadline,
                "{file} shows nothing in {empty:?}"
            );
            stir(&format!("{:?}", deadline.duration_since(Instant::now())));
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        let path = dir.join(format!("{name}.svg"));
        let svg = picture::draw(name, &panels);
        let lines: usize = panels
            .iter()
            .flat_map(|panel| &panel.shown)
            .map(Vec::len)
            .sum();
        assert_eq!(svg.matches("<polyline").count(), lines);
        std::fs::write(&path, svg).unwrap();
        println!("{} panels, {lines} lines: {}", panels.len(), path.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kataconfig_makes_a_node_run_pods_in_machines_and_leaves_it_as_it_was() {
    let mut cluster = Cluster::new().await;
    let before = cluster.node.files();
    assert!(cluster.node.pod_with("early", |_| ()).await.is_err());
    let jobs: [Job<'_>; 3] = [
        ("operator", cluster.start_operator(), None),
        ("node-agent", cluster.start_agent(), Some("worker-1")),
        ("monitor", cluster.start_monitor(), Some("worker-1")),
    ];
    let prometheus = Prometheus::start(&jobs);

    let config = deploy("samples/kataconfig.yaml").remove(0);
    let name = config["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.server.load(config).unwrap();
    cluster
        .until("Ready", |cluster| cluster.condition("Ready").is_some())
        .await;
    let told = cluster.first(GROUP, "katanodes")["status"].clone();
    assert_eq!(
        (&told["phase"], &told["handlers"], &told["machineId"]),
        (&json!("Ready"), &json!(["kata"]), &json!(MACHINE)),
        "{told}"
    );
    assert!(told["preflight"].as_array().unwrap().len() > 5, "{told}");
    let class = cluster.first("node.k8s.io", "runtimeclasses");
    assert_eq!(
        (&class["metadata"]["name"], &class["handler"]),
        (&json!("kata"), &json!("kata"))
    );

    // A pod that asks for the class, as its kubelet runs it.
    cluster.node.answers().await;
    let pod = cluster.node.pod("web").await;
    let limit = |config: &mut bulkhead_e2e::cri::ContainerConfig| {
        let linux = config.linux.as_mut().unwrap();
        linux.resources.as_mut().unwrap().memory_limit_in_bytes = 64 << 20;
    };
    let container = pod.start_with("worker", "sleep 1000", limit).await.unwrap();
    assert_ne!(
        container.exec("uname -r").await.out,
        bulkhead_e2e::host_kernel()
    );
    cluster
        .server
        .load(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "web", "namespace": "default" },
            "spec": { "runtimeClassName": "kata", "nodeName": "worker-1",
                "containers": [{ "name": "worker", "image": "busybox" }] },
            "status": { "phase": "Running" },
        }))
        .unwrap();

    let path = format!("/apis/{GROUP}/v1/kataconfigs/{name}");
    draw_dashboards(&prometheus, |value| cluster.annotate(&path, value)).await;

    // It keeps its node, and is named.
    cluster.delete(&path);
    cluster
        .until("Blocked", |cluster| {
            let blocked = cluster.condition("Blocked");
            blocked.is_some_and(|message| message.contains("default/web"))
        })
        .await;
    assert_eq!(container.exec("echo alive").await.out, "alive");

    pod.remove().await.unwrap();
    cluster.delete("/api/v1/namespaces/default/pods/web");
    cluster
        .until("the end", |cluster| {
            let gone = |group, kind| cluster.server.objects(group, kind).is_empty();
            gone(GROUP, "kataconfigs")
                && gone(GROUP, "katanodes")
                && gone("node.k8s.io", "runtimeclasses")
        })
        .await;
    assert_eq!(cluster.node.files(), before);
}

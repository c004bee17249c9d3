//! A cluster in memory with the operator's own program in it, and a stand-in
//! for the agents of its nodes.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use bulkhead_apiserver::{Options, Server};
use bulkhead_kataconfig::{Action, KataConfig, KataNode, KataNodeStatus, NodePhase, crds};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config, Resource, ResourceExt};
use serde_json::{Value, json};

/// Who the operator is to the API server.
pub(crate) const USER: &str = "system:serviceaccount:bulkhead-system:bulkhead-operator";
/// API group of OpenShift's Machine Config Operator.
const MACHINE_CONFIGS: &str = "machineconfiguration.openshift.io";
/// Longest anything here may take; a hang is a failure.
const HANG: Duration = Duration::from_secs(120);

pub(crate) fn deploy(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../deploy")
        .join(file);
    std::fs::read_to_string(path).unwrap()
}

pub(crate) fn sample(file: &str) -> KataConfig {
    serde_saphyr::from_str(&deploy(file)).unwrap()
}

/// The objects of a file of several.
pub(crate) fn documents(file: &str) -> Vec<Value> {
    let text = deploy(file);
    text.split("\n---\n")
        .map(|part| serde_saphyr::from_str(part).unwrap())
        .collect()
}

pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) client: Client,
    home: tempfile::TempDir,
    operator: Option<Child>,
    agents: tokio::task::JoinHandle<()>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.agents.abort();
        self.kill();
    }
}

impl Stage {
    pub(crate) async fn new(nodes: usize) -> Self {
        let server = Server::start(Options::default()).await.unwrap();
        for crd in crds() {
            server.load(serde_json::to_value(crd).unwrap()).unwrap();
        }
        for object in documents("operator/rbac.yaml") {
            server.load(object).unwrap();
        }
        for number in 0..nodes {
            server.load(node(&format!("node-{number}"))).unwrap();
        }
        let client = Client::try_from(Config::new(server.url().parse().unwrap())).unwrap();
        let agents = tokio::spawn(agents(client.clone()));
        server.enforce_rbac(true);
        let home = tempfile::tempdir().unwrap();
        std::fs::write(
            home.path().join("kubeconfig"),
            server.kubeconfig(Some(USER)),
        )
        .unwrap();
        Self {
            server,
            client,
            home,
            operator: None,
            agents,
        }
    }

    /// Starts the operator, under the same name each time.
    pub(crate) fn start(&mut self) {
        // What is measured is built otherwise.
        let program = std::env::var_os("BULKHEAD_OPERATOR_PROGRAM");
        let own = || env!("CARGO_BIN_EXE_bulkhead-operator").into();
        let operator = Command::new(program.unwrap_or_else(own))
            .args([
                "run",
                "--metrics-address",
                "127.0.0.1:0",
                "--release",
                "stable=1.0.0",
            ])
            .env("KUBECONFIG", self.home.path().join("kubeconfig"))
            .env("POD_NAME", "operator-0")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.operator = Some(operator);
    }

    /// Ends it in the middle of whatever it does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut operator) = self.operator.take() {
            let _ = operator.kill();
            let _ = operator.wait();
        }
    }

    /// Asks it to end, and waits for that.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let mut operator = self.operator.take().unwrap();
        let pid = rustix::process::Pid::from_child(&operator);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        operator.wait().unwrap()
    }

    /// A figure of the operator's memory, KiB, as proc_pid_status(5) names it.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let pid = self.operator.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The time from what an agent tells of its node to the KataConfig's status
    /// that has so many failed nodes.
    pub(crate) async fn told_after(&self, node: &str, phase: &str, failed: u32) -> Duration {
        let news = watcher(self.api::<KataConfig>(), watcher::Config::default());
        let mut news = std::pin::pin!(news.applied_objects());
        // What is there already.
        news.next().await.unwrap().unwrap();
        let begun = std::time::Instant::now();
        let group = "kataconfiguration.openshift.io";
        let now = jiff::Timestamp::now().to_string();
        let tell = |object: &mut Value| {
            object["status"]["phase"] = json!(phase);
            // So that a failed try is not made again at once.
            object["status"]["since"] = json!(now);
        };
        self.server
            .edit(group, "katanodes", ("", node), tell)
            .unwrap();
        let told = async {
            while let Some(config) = news.next().await {
                let counts = config.unwrap().status.unwrap_or_default().kata_nodes.counts;
                if counts.get("failedToInstall").copied().unwrap_or(0) == failed {
                    return begun.elapsed();
                }
            }
            panic!("the watch ended");
        };
        tokio::time::timeout(HANG, told).await.unwrap()
    }

    pub(crate) fn api<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    pub(crate) async fn apply(&self, config: &KataConfig) {
        let params = PatchParams::apply("administrator").force();
        let patch = Patch::Apply(config);
        self.api::<KataConfig>()
            .patch(&config.name_any(), &params, &patch)
            .await
            .unwrap();
    }

    /// Waits until the objects of a kind are as they should be, by a watch.
    pub(crate) async fn until<K>(&self, what: &str, holds: impl Fn(&[K]) -> bool)
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + 'static,
        K: serde::de::DeserializeOwned,
    {
        let api: Api<K> = self.api();
        let news = watcher(api.clone(), watcher::Config::default()).default_backoff();
        let mut news = std::pin::pin!(news);
        let wait = async {
            loop {
                let objects = api.list(&Default::default()).await.unwrap().items;
                if holds(&objects) {
                    return;
                }
                let _ = news.next().await;
            }
        };
        if tokio::time::timeout(HANG, wait).await.is_err() {
            let objects = api.list(&Default::default()).await.unwrap().items;
            panic!("{what} never came: {objects:#?}");
        }
    }

    /// Roles hold nothing that no code path uses; those for OpenShift apart.
    pub(crate) fn every_right_was_used(&self, openshift: bool) {
        let looked_at = |group: &str| (group == MACHINE_CONFIGS) == openshift;
        let mut used: BTreeSet<(String, String, String)> = BTreeSet::new();
        for request in self
            .server
            .requests()
            .into_iter()
            .filter(|request| request.user == USER)
        {
            let mut resource = request.resource;
            if !request.subresource.is_empty() {
                resource = format!("{resource}/{}", request.subresource);
            }
            used.insert((request.group, resource, request.verb));
        }
        // An apply that makes an object is a patch to the eye, and needs `create`.
        for (group, resource) in [
            ("kataconfiguration.openshift.io", "katanodes"),
            ("node.k8s.io", "runtimeclasses"),
            (MACHINE_CONFIGS, "machineconfigs"),
            (MACHINE_CONFIGS, "machineconfigpools"),
        ] {
            used.insert((group.into(), resource.into(), "create".into()));
        }
        let mut granted = BTreeSet::new();
        for role in documents("operator/rbac.yaml") {
            for rule in role["rules"].as_array().into_iter().flatten() {
                let list = |key: &str| {
                    let list = rule[key].as_array().unwrap().iter();
                    list.map(|text| text.as_str().unwrap().to_owned())
                        .collect::<Vec<_>>()
                };
                for group in list("apiGroups") {
                    for resource in list("resources") {
                        for verb in list("verbs") {
                            granted.insert((group.clone(), resource.clone(), verb));
                        }
                    }
                }
            }
        }
        used.retain(|(group, ..)| looked_at(group));
        granted.retain(|(group, ..)| looked_at(group));
        let unused: Vec<_> = granted.difference(&used).collect();
        assert!(unused.is_empty(), "granted and not used: {unused:?}");
        let missing: Vec<_> = used.difference(&granted).collect();
        assert!(missing.is_empty(), "used and not granted: {missing:?}");
    }

    /// Waits until a KataConfig is ready in its present generation.
    pub(crate) async fn ready(&self) {
        self.until("Ready", |configs: &[KataConfig]| {
            let mut all = configs.iter();
            !configs.is_empty() && all.all(|config| holds(config, "Ready"))
        })
        .await;
    }
}

/// Whether a condition holds, about the present generation.
pub(crate) fn holds(config: &KataConfig, kind: &str) -> bool {
    let status = config.status.clone().unwrap_or_default();
    let mut conditions = status.conditions.iter();
    conditions.any(|condition| {
        condition.type_ == kind
            && condition.status == "True"
            && condition.observed_generation == config.metadata.generation
    })
}

fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "labels": { "node-role.kubernetes.io/worker": "" } },
        "spec": { "taints": [
            { "key": "kataconfiguration.openshift.io/not-ready", "effect": "NoSchedule" },
            { "key": "somebody-elses", "effect": "NoSchedule" },
        ]},
        "status": {
            "nodeInfo": {
                "machineID": format!("machine-{name}"), "architecture": "amd64", "bootID": "",
                "containerRuntimeVersion": "containerd://2.1.0", "kernelVersion": "6.12",
                "kubeProxyVersion": "", "kubeletVersion": "v1.34.0", "operatingSystem": "linux",
                "osImage": "Debian", "systemUUID": "",
            },
            "conditions": [{ "type": "Ready", "status": "True",
                "lastTransitionTime": "2026-01-01T00:00:00Z" }],
        },
    })
}

/// Does what every KataNode says, at once and with success.
async fn agents(client: Client) {
    let api: Api<KataNode> = Api::all(client.clone());
    let nodes: Api<Node> = Api::all(client);
    let news = watcher(api.clone(), watcher::Config::default())
        .default_backoff()
        .applied_objects();
    let mut news = std::pin::pin!(news);
    while let Some(news) = news.next().await {
        // A watch that broke is begun again.
        let Ok(kata_node) = news else {
            continue;
        };
        let told = kata_node.status.clone().unwrap_or_default();
        let generation = kata_node.metadata.generation;
        if told.observed_generation == generation {
            continue;
        }
        let name = kata_node.name_any();
        let Ok(node) = nodes.get(&name).await else {
            continue;
        };
        let spec = kata_node.spec;
        let (phase, installed) = match spec.action {
            Action::None => (NodePhase::Idle, false),
            Action::Install => (NodePhase::Ready, true),
            Action::Uninstall => (NodePhase::Removed, false),
        };
        let handlers = spec.handlers.into_iter().map(|handler| handler.name);
        let status = KataNodeStatus {
            phase,
            version: spec.version.filter(|_| installed),
            handlers: handlers.filter(|_| installed).collect(),
            machine_id: node.status.unwrap().node_info.unwrap().machine_id,
            observed_generation: generation,
            ..KataNodeStatus::default()
        };
        let patch = Patch::Merge(json!({ "status": status }));
        let _ = api
            .patch_status(&name, &PatchParams::default(), &patch)
            .await;
    }
}

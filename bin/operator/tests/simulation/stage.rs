//! The API server with its troubles, and the operator's program that is
//! started again whenever it was killed.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bulkhead_apiserver::{Effect, Fault, Options, Recorded, Server};
use bulkhead_kataconfig::{KataConfig, KataNode, crds};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config, ResourceExt};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::world::{State, World, dice};

/// Who the operator is to the API server.
const USER: &str = "system:serviceaccount:bulkhead-system:bulkhead-operator";
const NAME: &str = "everywhere";
/// Longest a part of the test may take; a hang is a failure.
const HANG: Duration = Duration::from_secs(120);
/// Writes between two kills, at most.
const BETWEEN_KILLS: u64 = 2500;

/// A program that is started again whenever it is killed, but not when it ends.
#[derive(Debug, Default)]
struct Running {
    pid: AtomicI32,
    writes: AtomicUsize,
    next: AtomicUsize,
    kills: AtomicUsize,
}

pub(crate) struct Stage {
    pub(crate) server: Arc<Server>,
    pub(crate) world: World,
    client: Client,
    running: Arc<Running>,
    seed: u64,
    troubles: AtomicUsize,
    ended: Arc<Mutex<Option<String>>>,
    _home: tempfile::TempDir,
    /// The watches and the operator end with this.
    _tasks: JoinSet<()>,
}

fn deploy(file: &str) -> Vec<Value> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let text = std::fs::read_to_string(dir.join(file)).unwrap();
    let parts = text.split("\n---\n");
    parts
        .map(|part| serde_saphyr::from_str(part).unwrap())
        .collect()
}

impl Stage {
    pub(crate) async fn new(nodes: usize, at_most: usize, seed: u64) -> Self {
        let server = Arc::new(Server::start(Options::default()).await.unwrap());
        for crd in crds() {
            server.load(serde_json::to_value(crd).unwrap()).unwrap();
        }
        for object in deploy("operator/rbac.yaml") {
            server.load(object).unwrap();
        }
        server.enforce_rbac(true);
        let world = World::new(Arc::clone(&server), seed, at_most);
        for number in 0..nodes {
            world.join(&format!("node-{number:04}"));
        }
        let client = Client::try_from(Config::new(server.url().parse().unwrap())).unwrap();
        let mut tasks = JoinSet::new();
        watches(&mut tasks, &client, &world);
        let running = Arc::new(Running::default());
        let home = tempfile::tempdir().unwrap();
        let kubeconfig = home.path().join("kubeconfig");
        std::fs::write(&kubeconfig, server.kubeconfig(Some(USER))).unwrap();
        kills(&server, &running, seed);
        let ended = Arc::default();
        let operator = operate(
            kubeconfig.display().to_string(),
            Arc::clone(&running),
            Arc::clone(&ended),
        );
        tasks.spawn(operator);
        Self {
            server,
            world,
            client,
            running,
            seed,
            troubles: AtomicUsize::new(0),
            ended,
            _home: home,
            _tasks: tasks,
        }
    }

    /// What an API server has on a bad day, for the operator alone. The judge
    /// hears everything.
    pub(crate) fn trouble(&self) {
        let faults = self.server.faults();
        let round = self.troubles.fetch_add(1, Ordering::Relaxed);
        faults.clear();
        faults.seed(dice(self.seed, &["trouble", &round.to_string()]));
        let bad = [
            Fault::status(409).on("patch", "katanodes").per_mille(4),
            Fault::status(500).on("patch", "katanodes").per_mille(4),
            Fault::status(500).on("patch", "nodes").per_mille(4),
            Fault::status(429).on("patch", "nodes").times(2).after(100),
            Fault::status(500).on("create", "events").per_mille(10),
            Fault::status(409)
                .on("patch", "kataconfigs/status")
                .per_mille(20),
            Fault::new(Effect::Disconnect)
                .on("patch", "katanodes")
                .per_mille(4),
            Fault::new(Effect::Delay(Duration::from_millis(20))).per_mille(5),
            Fault::new(Effect::Cut(1500))
                .on("watch", "*")
                .per_mille(500),
        ];
        for fault in bad {
            faults.add(fault.by(USER));
        }
        // Watches end with 410, the judge's too.
        faults.forget_history();
    }

    pub(crate) async fn apply(&self, version: &str, pool: Option<&str>) {
        let mut spec = json!({
            "version": version,
            "rollout": { "maxUnavailable": self.world.state().at_most, "canary": 5,
                "maxFailures": 40 },
        });
        if let Some(pool) = pool {
            spec["kataConfigPoolSelector"] = json!({ "matchLabels": { "pool": pool } });
        }
        let config = json!({
            "apiVersion": "kataconfiguration.openshift.io/v1", "kind": "KataConfig",
            "metadata": { "name": NAME }, "spec": spec,
        });
        let params = PatchParams::apply("administrator").force();
        let api: Api<KataConfig> = Api::all(self.client.clone());
        let patch = Patch::Apply(config);
        api.patch(NAME, &params, &patch).await.unwrap();
    }

    pub(crate) async fn delete(&self) {
        let api: Api<KataConfig> = Api::all(self.client.clone());
        api.delete(NAME, &DeleteParams::default()).await.unwrap();
    }

    pub(crate) async fn remove_node(&self, name: &str) {
        // Its machine goes with it, so that nobody forgets an installation.
        self.world.lost_node(name);
        let api: Api<Node> = Api::all(self.client.clone());
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Waits until something is so, as the judge sees it.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let mut moved = self.world.moved.subscribe();
        let wait = async {
            while !holds(&self.world.state()) {
                moved.changed().await.unwrap();
                let wrong = self.world.state().wrong.clone();
                assert_eq!(wrong, [""; 0], "before {what}");
                let ended = self.ended.lock().unwrap().clone();
                assert_eq!(ended, None, "before {what}");
            }
        };
        let begun = std::time::Instant::now();
        if tokio::time::timeout(HANG, wait).await.is_err() {
            panic!("{what} never came: {}", self.world.state().told());
        }
        println!("{what}: after {:.1?}", begun.elapsed());
    }

    /// Waits until all has come that was asked for, and compares the status
    /// with what is true.
    pub(crate) async fn at_rest(&self, version: &str, wanted: impl Fn(&str) -> bool) {
        let reached = |state: &State| {
            let members = state
                .machines
                .iter()
                .filter(|(name, machine)| wanted(name) && machine.capable && !machine.vanished);
            let names: BTreeSet<String> = members.clone().map(|(name, _)| name.clone()).collect();
            let mut installed = members.map(|(_, machine)| machine.installed.as_deref());
            if !installed.all(|own| own == Some(version)) || !names.is_subset(&state.labelled) {
                return false;
            }
            // Whatever else has a label could not be asked to give it back.
            let mut others = state.labelled.difference(&names);
            if others.any(|name| state.machines.get(name).is_some_and(|m| !m.vanished)) {
                return false;
            }
            told_truly(state, names.len(), &wanted)
        };
        self.until(version, reached).await;
        self.server.faults().clear();
    }

    /// At rest nothing is written, but the lease.
    pub(crate) async fn is_quiet(&self) {
        self.server.faults().clear();
        // What was written last is heard, and decided about, within this time.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = self.requests().len();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let after: Vec<_> = self.requests().split_off(before);
        assert_eq!(after, [], "at rest");
    }

    /// Writes and reads of the operator, but for its lease.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        let mut all = self.server.requests();
        all.retain(|request| request.user == USER && request.resource != "leases");
        all
    }

    pub(crate) fn kills(&self) -> usize {
        self.running.kills.load(Ordering::Relaxed)
    }
}

/// Whether the status is of the present generation, and says what is so.
fn told_truly(state: &State, ready: usize, wanted: &impl Fn(&str) -> bool) -> bool {
    let Some(config) = &state.config else {
        return false;
    };
    let status = config.status.clone().unwrap_or_default();
    let current = status.observed_generation == config.metadata.generation;
    let holds = |kind: &str| {
        let mut conditions = status.conditions.iter();
        conditions.any(|own| own.type_ == kind && own.status == "True")
    };
    let count = |name: &str| status.kata_nodes.counts.get(name).copied().unwrap_or(0) as usize;
    let vanished = state.machines.values().filter(|m| m.vanished).count();
    let unable = state.machines.iter();
    let unable = unable.filter(|(name, m)| wanted(name) && !m.capable && !m.vanished);
    current
        && holds("Ready")
        && !holds("Progressing")
        && holds("Degraded") == (vanished > 0)
        && count("installed") == ready
        && count("ineligible") == unable.count()
        && count("orphaned") == vanished
}

/// Everything the judge looks at.
fn watches(tasks: &mut JoinSet<()>, client: &Client, world: &World) {
    let (nodes, kata_nodes, configs) = (
        Api::<Node>::all(client.clone()),
        Api::<KataNode>::all(client.clone()),
        Api::<KataConfig>::all(client.clone()),
    );
    let all = watcher::Config::default;
    let judge = world.clone();
    tasks.spawn(async move {
        let mut news = std::pin::pin!(watcher(kata_nodes, all()).default_backoff());
        while let Some(news) = news.next().await {
            match news {
                Ok(Event::Apply(node) | Event::InitApply(node)) => judge.saw_kata_node(&node),
                Ok(Event::Delete(node)) => judge.lost_kata_node(&node),
                _ => {}
            }
        }
    });
    let judge = world.clone();
    tasks.spawn(async move {
        let mut news = std::pin::pin!(watcher(nodes, all()).default_backoff());
        while let Some(news) = news.next().await {
            match news {
                Ok(Event::Apply(node) | Event::InitApply(node)) => judge.saw_node(&node),
                Ok(Event::Delete(node)) => judge.lost_node(&node.name_any()),
                _ => {}
            }
        }
    });
    let judge = world.clone();
    tasks.spawn(async move {
        let mut news = std::pin::pin!(watcher(configs, all()).default_backoff());
        while let Some(news) = news.next().await {
            match news {
                Ok(Event::Apply(config) | Event::InitApply(config)) => {
                    judge.saw_config(Some(config));
                }
                Ok(Event::Delete(_)) => judge.saw_config(None),
                _ => {}
            }
        }
    });
}

/// Kills the operator in the middle of a write, at writes the seed chooses.
fn kills(server: &Server, running: &Arc<Running>, seed: u64) {
    let own = Arc::clone(running);
    let after = move |kills: usize| {
        let dice = dice(seed, &["kill", &kills.to_string()]);
        usize::try_from(dice % BETWEEN_KILLS).unwrap() + 1
    };
    own.next.store(after(0), Ordering::Relaxed);
    server.observe(move |request| {
        let write = !matches!(request.verb.as_str(), "get" | "list" | "watch");
        if !write || request.user != USER || request.resource == "leases" {
            return;
        }
        let writes = own.writes.fetch_add(1, Ordering::Relaxed) + 1;
        if writes < own.next.load(Ordering::Relaxed) {
            return;
        }
        // None while it is not there: what it sent before it died.
        let Some(pid) = Pid::from_raw(own.pid.swap(0, Ordering::Relaxed)) else {
            return;
        };
        let _ = kill_process(pid, Signal::KILL);
        let kills = own.kills.fetch_add(1, Ordering::Relaxed) + 1;
        own.next.store(writes + after(kills), Ordering::Relaxed);
    });
}

/// Runs the operator, under the same name each time.
async fn operate(kubeconfig: String, running: Arc<Running>, ended: Arc<Mutex<Option<String>>>) {
    loop {
        let operator = tokio::process::Command::new(env!("CARGO_BIN_EXE_bulkhead-operator"))
            .args(["run", "--metrics-address", "127.0.0.1:0"])
            .args(["--release", "stable=1.0.0"])
            .env("KUBECONFIG", &kubeconfig)
            .env("POD_NAME", "operator-0")
            .env("RUST_LOG", "error,kube_client=off")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let mut operator = operator.unwrap();
        let pid = operator.id().and_then(|pid| i32::try_from(pid).ok());
        running
            .pid
            .store(pid.unwrap_or_default(), Ordering::Relaxed);
        let status = operator.wait().await.unwrap();
        if status.signal().is_none() {
            *ended.lock().unwrap() = Some(format!("the operator ended by itself: {status}"));
            return;
        }
    }
}

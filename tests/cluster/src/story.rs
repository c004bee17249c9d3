//! From a cluster to the same cluster.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use bulkhead_kataconfig::{
    CONTROL_PLANE_LABELS, DEFAULT_HANDLER, KataConfig, KataNode, NodePhase, runtime_label,
};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, LogParams, Patch, PatchParams};
use kube::api::{ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::WatchStreamExt;
use kube::runtime::conditions::is_deleted;
use kube::runtime::wait::await_condition;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Config, Resource, ResourceExt};
use serde_json::{Value, json};

use crate::record::record;
use crate::stand_in::StandIn;
use crate::{Cli, Error, objects};

/// The label of the nodes that are tried.
pub(crate) const CHOSEN: &str = "bulkhead.e2e/chosen";
/// The KataConfig, and the pods' namespace.
const NAME: &str = "bulkhead-e2e";
const SYSTEM: &str = "bulkhead-system";
/// The kind of the policy that refuses pods in the host's namespaces.
const POLICY: &str = "ValidatingAdmissionPolicy ";

/// Tells the whole of it; all that went wrong, also in clearing away.
pub(crate) async fn run(cli: Cli) -> Result<(), Vec<Error>> {
    let one = |error| vec![error];
    let (stand_in, client) = connect(&cli).await.map_err(one)?;
    let mut own = objects::all(&cli).map_err(one)?;
    let gone = objects::suit(&client, &mut own).await.map_err(one)?;
    for what in &gone {
        println!("            not here, and left out: {what}");
    }
    let before = record(&client, &own).await.map_err(one)?;
    let obstacles = before.obstacles(&own);
    if !obstacles.is_empty() {
        let text = format!(
            "the cluster has these already, and they would be lost: {}",
            obstacles.join(", ")
        );
        return Err(vec![Error::Unsuitable(text)]);
    }
    let mut story = Story {
        client,
        stand_in,
        own,
        chosen: Vec::new(),
        patience: cli.patience(),
        pod_image: cli.pod_image.clone(),
        policy: !gone.iter().any(|what| what.starts_with(POLICY)),
        begun: Instant::now(),
    };
    let mut errors = Vec::new();
    let told = tokio::select! {
        told = story.tell(cli.nodes) => told,
        _ = tokio::signal::ctrl_c() => Err(Error::Wrong("stopped; clearing away".to_owned())),
    };
    errors.extend(told.err());
    errors.extend(story.clear().await);
    match record(&story.client, &story.own).await {
        Ok(after) => {
            let differs = before.differences(&after).into_iter();
            errors.extend(differs.map(|what| Error::Wrong(format!("not as it was: {what}"))));
        }
        Err(error) => errors.push(error),
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    story.say("the cluster is as it was");
    Ok(())
}

async fn connect(cli: &Cli) -> Result<(Option<StandIn>, Client), Error> {
    if cli.stand_in {
        let (stand_in, client) = StandIn::start().await?;
        return Ok((Some(stand_in), client));
    }
    let config = match &cli.kubeconfig {
        None => Config::infer()
            .await
            .map_err(|error| Error::Kubeconfig(error.into()))?,
        Some(path) => {
            let file = Kubeconfig::read_from(path);
            let file = file.map_err(|error| Error::Kubeconfig(error.into()))?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(file, &options).await;
            config.map_err(|error| Error::Kubeconfig(error.into()))?
        }
    };
    let client = Client::try_from(config).map_err(Error::api("be a client"))?;
    Ok((None, client))
}

struct Story {
    client: Client,
    stand_in: Option<StandIn>,
    own: Vec<DynamicObject>,
    chosen: Vec<String>,
    patience: Duration,
    pod_image: String,
    /// Has the cluster the policy that refuses pods in the host's namespaces?
    policy: bool,
    begun: Instant,
}

impl Story {
    fn say(&self, what: &str) {
        println!("{:>7.1} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAME)
    }

    async fn tell(&mut self, nodes: usize) -> Result<(), Error> {
        self.choose(nodes).await?;
        for object in &self.own {
            objects::apply(&self.client, object).await?;
        }
        self.say("deploy/ is applied");
        match &mut self.stand_in {
            Some(stand_in) => stand_in.run_programs()?,
            None => self.programs_are_there().await?,
        }
        self.install().await?;
        self.own.push(pods_namespace()?);
        objects::apply(&self.client, &self.own[self.own.len() - 1]).await?;
        match self.stand_in.is_some() {
            true => self.say("not tried: a pod; nobody runs any here"),
            false => {
                self.pods_may_be_made().await?;
                self.a_pod_has_its_own_kernel().await?;
            }
        }
        self.host_namespaces_are_refused().await?;
        self.a_pod_keeps_its_node().await
    }

    /// Labels the first workers that are ready.
    async fn choose(&mut self, count: usize) -> Result<(), Error> {
        let nodes: Api<Node> = self.all();
        let listed = nodes.list(&ListParams::default()).await;
        for node in listed.map_err(Error::api("list nodes"))? {
            let has = |label: &str| node.labels().contains_key(label);
            let system = CONTROL_PLANE_LABELS.into_iter().any(has);
            let conditions = node.status.iter().flat_map(|status| &status.conditions);
            let mut conditions = conditions.flatten();
            let ready = conditions.any(|own| own.type_ == "Ready" && own.status == "True");
            if self.chosen.len() < count && ready && !system {
                self.chosen.push(node.name_any());
            }
        }
        if self.chosen.len() < count || count == 0 {
            let names = self.chosen.join(", ");
            let text = format!("{count} workers that are ready are needed; there are: {names}");
            self.chosen.clear();
            return Err(Error::Unsuitable(text));
        }
        self.label(json!("true")).await?;
        self.say(&format!("chosen: {}", self.chosen.join(", ")));
        Ok(())
    }

    async fn label(&self, value: Value) -> Result<(), Error> {
        let nodes: Api<Node> = self.all();
        let patch = Patch::Merge(json!({ "metadata": { "labels": { CHOSEN: value } } }));
        for name in &self.chosen {
            let failed = Error::api(format!("label the node {name}"));
            let params = PatchParams::default();
            nodes.patch(name, &params, &patch).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Waits until something holds of an object, and gives the object.
    async fn until<K>(
        &self,
        api: Api<K>,
        name: &str,
        what: &str,
        holds: impl Fn(&K) -> bool,
    ) -> Result<K, Error>
    where
        K: Resource
            + Clone
            + Debug
            + Send
            + serde::de::DeserializeOwned
            + serde::Serialize
            + 'static,
    {
        let holds = |object: Option<&K>| object.is_some_and(&holds);
        let wait = await_condition(api.clone(), name, holds);
        match tokio::time::timeout(self.patience, wait).await {
            Ok(Ok(Some(object))) => Ok(object),
            Ok(Ok(None)) => Err(Error::Wrong(format!("`{name}` is gone: {what}"))),
            Ok(Err(error)) => Err(Error::Wrong(format!("{what}: {error}"))),
            Err(_) => {
                let seen = api.get_opt(name).await.ok().flatten();
                let seen = serde_json::to_value(seen).unwrap_or_default();
                Err(Error::Late {
                    what: what.to_owned(),
                    seconds: self.patience.as_secs(),
                    seen: seen["status"].to_string(),
                })
            }
        }
    }

    async fn programs_are_there(&self) -> Result<(), Error> {
        let operators: Api<Deployment> = Api::namespaced(self.client.clone(), SYSTEM);
        let available = |operator: &Deployment| {
            let status = operator.status.as_ref();
            status.is_some_and(|status| status.available_replicas.unwrap_or(0) > 0)
        };
        self.until(operators, "bulkhead-operator", "an operator", available)
            .await?;
        let agents: Api<DaemonSet> = Api::namespaced(self.client.clone(), SYSTEM);
        let nodes = i32::try_from(self.chosen.len()).unwrap_or(i32::MAX);
        let ready = |agents: &DaemonSet| {
            let status = agents.status.as_ref();
            status.is_some_and(|status| status.number_ready >= nodes)
        };
        self.until(agents, "bulkhead-node-agent", "the nodes' agents", ready)
            .await?;
        self.say("operator and agents are ready");
        Ok(())
    }

    async fn install(&self) -> Result<(), Error> {
        let config = json!({
            "apiVersion": "kataconfiguration.openshift.io/v1", "kind": "KataConfig",
            "metadata": { "name": NAME },
            "spec": {
                "kataConfigPoolSelector": { "matchLabels": { CHOSEN: "true" } },
                // Where nobody runs pods, none can be tried.
                "verification": { "enabled": self.stand_in.is_none() },
            },
        });
        let config: KataConfig = serde_json::from_value(config).map_err(Error::local(NAME))?;
        let configs: Api<KataConfig> = self.all();
        let made = configs.create(&PostParams::default(), &config).await;
        made.map_err(Error::api("make a KataConfig"))?;
        let ready = |config: &KataConfig| holds(config, "Ready").is_some();
        let config = self.until(configs, NAME, "Ready", ready).await?;
        let count = config
            .status
            .unwrap_or_default()
            .kata_nodes
            .ready_node_count;
        self.expect(count as usize == self.chosen.len(), || {
            format!("Ready with {count} nodes of {}", self.chosen.len())
        })?;
        let kata_nodes: Api<KataNode> = self.all();
        let nodes: Api<Node> = self.all();
        for name in &self.chosen {
            let told = kata_nodes.get(name).await;
            let told = told.map_err(Error::api("show a KataNode"))?;
            let told = told.status.unwrap_or_default();
            let serves = told
                .handlers
                .iter()
                .any(|handler| handler == DEFAULT_HANDLER);
            self.expect(told.phase == NodePhase::Ready && serves, || {
                format!("Ready, and the KataNode {name} is {told:?}")
            })?;
            let node = nodes.get(name).await.map_err(Error::api("show a node"))?;
            let label = node.labels().get(&runtime_label(DEFAULT_HANDLER));
            self.expect(label.is_some_and(|value| value == "true"), || {
                format!("Ready, and the node {name} has no label of the handler")
            })?;
        }
        let classes: Api<RuntimeClass> = self.all();
        let class = classes.get(DEFAULT_HANDLER).await;
        let class = class.map_err(Error::api("show the RuntimeClass"))?;
        self.expect(class.handler == DEFAULT_HANDLER, || format!("{class:?}"))?;
        self.say("the KataConfig is Ready, and it is true");
        Ok(())
    }

    /// The account of a namespace comes after it, its token with an old API server
    /// later still, and every pod is forbidden until then.
    async fn pods_may_be_made(&self) -> Result<(), Error> {
        let pod = self.pod("first", &["true"], &json!({}))?;
        let params = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let end = Instant::now() + self.patience;
        loop {
            match self.pods().create(&params, &pod).await {
                Err(kube::Error::Api(status))
                    if (status.code == 403 || status.code >= 500) && Instant::now() < end =>
                {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                made => return made.map(drop).map_err(Error::api("make a pod")),
            }
        }
    }

    fn expect(&self, holds: bool, wrong: impl FnOnce() -> String) -> Result<(), Error> {
        match holds {
            true => Ok(()),
            false => Err(Error::Wrong(wrong())),
        }
    }

    fn pod(&self, name: &str, command: &[&str], changes: &Value) -> Result<Pod, Error> {
        let mut pod = json!({
            "metadata": { "name": name },
            "spec": {
                "runtimeClassName": DEFAULT_HANDLER, "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "containers": [{ "name": "it", "image": self.pod_image, "command": command,
                    "resources": { "limits": { "cpu": "1", "memory": "64Mi" } } }],
            },
        });
        for (key, value) in changes.as_object().into_iter().flatten() {
            pod["spec"][key] = value.clone();
        }
        serde_json::from_value(pod).map_err(Error::local(name))
    }

    async fn a_pod_has_its_own_kernel(&self) -> Result<(), Error> {
        let name = "kernel";
        let pods = self.pods();
        let pod = self.pod(name, &["uname", "-r"], &json!({}))?;
        let made = pods.create(&PostParams::default(), &pod).await;
        made.map_err(Error::api("make a pod"))?;
        let ended = |pod: &Pod| phase(pod) == "Succeeded" || phase(pod) == "Failed";
        let pod = self.until(pods.clone(), name, "a pod's end", ended).await?;
        let guest = pods.logs(name, &LogParams::default()).await;
        let guest = guest.map_err(Error::api("show a pod's log"))?;
        let on = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
        let nodes: Api<Node> = self.all();
        let node = nodes.get(&on).await.map_err(Error::api("show a node"))?;
        let info = node.status.and_then(|status| status.node_info);
        let host = info.map(|info| info.kernel_version).unwrap_or_default();
        let guest = guest.trim();
        self.expect(!guest.is_empty() && guest != host, || {
            format!("the pod's kernel is `{guest}`, the node's `{host}`")
        })?;
        self.say(&format!(
            "a pod ran under kernel {guest} on a node with {host}"
        ));
        Ok(())
    }

    async fn host_namespaces_are_refused(&self) -> Result<(), Error> {
        let name = "host";
        let pod = self.pod(name, &["true"], &json!({ "hostNetwork": true }))?;
        let made = self.pods().create(&PostParams::default(), &pod).await;
        match made {
            Ok(_) if !self.policy => self.the_node_refuses(name).await,
            Err(kube::Error::Api(status)) if status.message.contains("hostNetwork is not") => {
                self.say("a pod with hostNetwork was refused, in one sentence");
                Ok(())
            }
            made => Err(Error::Wrong(format!(
                "a pod with hostNetwork was to be refused: {made:?}"
            ))),
        }
    }

    /// Without a policy it is the runtime that refuses, and the pod's events say so.
    async fn the_node_refuses(&self, name: &str) -> Result<(), Error> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), NAME);
        let said = |event: &Event| {
            let message = event.message.as_deref().unwrap_or_default();
            event.involved_object.name.as_deref() == Some(name) && message.contains("hostNetwork")
        };
        let params = watcher::Config::default();
        let told = watcher(events, params)
            .applied_objects()
            .try_filter(|event| std::future::ready(said(event)));
        let first = tokio::time::timeout(self.patience, std::pin::pin!(told).next()).await;
        let late = |_| Error::Late {
            what: "an event that says why a pod with hostNetwork does not start".to_owned(),
            seconds: self.patience.as_secs(),
            seen: "no such event".to_owned(),
        };
        let event = first.map_err(late)?.transpose();
        let event = event.map_err(|error| Error::Wrong(format!("the pod's events: {error}")))?;
        let params = DeleteParams::default().grace_period(0);
        let deleted = self.pods().delete(name, &params).await;
        deleted.map_err(Error::api("delete a pod"))?;
        let message = event.and_then(|event| event.message).unwrap_or_default();
        self.say(&format!("a pod with hostNetwork was refused: {message}"));
        Ok(())
    }

    /// The KataConfig is deleted under a pod, which goes on and is named.
    async fn a_pod_keeps_its_node(&self) -> Result<(), Error> {
        let name = "stays";
        let pods = self.pods();
        let bound = self.stand_in.as_ref().map(StandIn::node);
        let bound = bound.map_or(json!({}), |node| json!({ "nodeName": node }));
        let pod = self.pod(name, &["sleep", "1000000"], &bound)?;
        let made = pods.create(&PostParams::default(), &pod).await;
        made.map_err(Error::api("make a pod"))?;
        if let Some(stand_in) = &self.stand_in {
            stand_in.runs(&pods, name).await?;
        }
        let running = |pod: &Pod| phase(pod) == "Running";
        self.until(pods.clone(), name, "a running pod", running)
            .await?;

        let configs: Api<KataConfig> = self.all();
        let deleted = configs.delete(NAME, &DeleteParams::default()).await;
        deleted.map_err(Error::api("delete the KataConfig"))?;
        let own = format!("{NAME}/{name}");
        let named = |config: &KataConfig| {
            holds(config, "Blocked").is_some_and(|message| message.contains(&own))
        };
        let what = "Blocked, with the pod's name";
        let config = self.until(configs.clone(), NAME, what, named).await?;
        let pod = pods.get(name).await.map_err(Error::api("show a pod"))?;
        self.expect(phase(&pod) == "Running", || {
            format!("the pod is {}", phase(&pod))
        })?;
        self.say("the pod keeps its node, and the KataConfig says so");

        let params = DeleteParams::default().grace_period(0);
        let deleted = pods.delete(name, &params).await;
        deleted.map_err(Error::api("delete a pod"))?;
        self.gone(&config).await?;
        let kata_nodes: Api<KataNode> = self.all();
        let left = kata_nodes.list(&ListParams::default()).await;
        let left = left.map_err(Error::api("list KataNodes"))?.items;
        self.expect(left.is_empty(), || format!("KataNodes are left: {left:?}"))?;
        self.say("the nodes are clean, and the KataConfig is gone");
        Ok(())
    }

    async fn gone(&self, config: &KataConfig) -> Result<(), Error> {
        let configs: Api<KataConfig> = self.all();
        let uid = config.uid().unwrap_or_default();
        let wait = await_condition(configs.clone(), NAME, is_deleted(&uid));
        if tokio::time::timeout(self.patience, wait).await.is_ok() {
            return Ok(());
        }
        let seen = configs.get_opt(NAME).await.ok().flatten();
        let seen = seen.and_then(|config| config.status);
        Err(Error::Late {
            what: "the end of the KataConfig".to_owned(),
            seconds: self.patience.as_secs(),
            seen: json!(seen.map(|status| status.conditions)).to_string(),
        })
    }

    /// Takes everything away, whatever there is.
    async fn clear(&mut self) -> Vec<Error> {
        let mut errors = Vec::new();
        errors.extend(self.clear_config().await.err());
        if let Some(stand_in) = &mut self.stand_in {
            stand_in.end_programs();
        }
        for object in self.own.iter().rev() {
            let removed = objects::remove(&self.client, object, self.patience).await;
            errors.extend(removed.err());
        }
        errors.extend(self.label(Value::Null).await.err());
        errors
    }

    /// Pods first, because they keep the KataConfig.
    async fn clear_config(&self) -> Result<(), Error> {
        let namespace = self.own.iter().rfind(|object| object.name_any() == NAME);
        if let Some(namespace) = namespace {
            objects::remove(&self.client, namespace, self.patience).await?;
        }
        let configs: Api<KataConfig> = self.all();
        let config = match configs.get_opt(NAME).await {
            // Not even the kind is there.
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            config => config.map_err(Error::api("show the KataConfig"))?,
        };
        let Some(config) = config else {
            return Ok(());
        };
        let deleted = configs.delete(NAME, &DeleteParams::default()).await;
        deleted.map_err(Error::api("delete the KataConfig"))?;
        self.gone(&config).await
    }
}

fn phase(pod: &Pod) -> &str {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_ref());
    phase.map_or("", String::as_str)
}

/// The message of a condition that holds, about the present generation.
fn holds(config: &KataConfig, kind: &str) -> Option<String> {
    let generation = config.metadata.generation;
    let mut conditions = config.status.as_ref()?.conditions.iter();
    let found = conditions.find(|own| {
        own.type_ == kind && own.status == "True" && own.observed_generation == generation
    })?;
    Some(found.message.clone())
}

fn pods_namespace() -> Result<DynamicObject, Error> {
    let meta = ObjectMeta {
        name: Some(NAME.to_owned()),
        ..ObjectMeta::default()
    };
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": meta });
    serde_json::from_value(namespace).map_err(Error::local(NAME))
}

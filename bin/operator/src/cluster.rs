//! What is known of the cluster: what the watches told, and what the
//! operator's own writes answered.
//!
//! A decision must see the writes of the one before, or it would start a node
//! too many. So the answer of a write counts at once, and what a watch tells
//! about that object is passed over until the watch has come as far. A list is
//! no such word: it holds the writes before it began and may or may not hold
//! those after, so nothing is decided while one is under way.

use std::collections::{BTreeMap, HashMap};

use bulkhead_kataconfig::{KataConfig, KataNode};
use bulkhead_rollout::{MachineConfigs, PodView, Snapshot};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;

use crate::machine_config::{self, MachineConfig, MachineConfigPool};
use crate::views;

/// News of one kind of object.
#[expect(clippy::large_enum_variant, reason = "one at a time, for a moment")]
pub(crate) enum Heard {
    Config(Event<KataConfig>),
    KataNode(Event<KataNode>),
    Node(Event<Node>),
    Pod(Event<Pod>),
    Class(Event<RuntimeClass>),
    /// Of the kinds of OpenShift's Machine Config Operator.
    Definition(Event<PartialObjectMeta<CustomResourceDefinition>>),
    MachineConfig(Event<MachineConfig>),
    Pool(Event<MachineConfigPool>),
}

/// How far a watch has to come for an object.
enum Until {
    Version(String),
    Deletion,
}

/// How far the lists of a kind are.
#[derive(Debug, Default, Clone, Copy)]
struct Lists {
    /// Whether there was a whole one.
    complete: bool,
    /// Whether one is under way.
    running: bool,
}

impl Lists {
    fn begun(&mut self) {
        self.running = true;
    }

    fn ended(&mut self) {
        *self = Self {
            complete: true,
            running: false,
        };
    }
}

/// One kind of object, by name.
struct Kind<V> {
    objects: BTreeMap<String, V>,
    /// What a list that has begun brought so far.
    listed: BTreeMap<String, V>,
    versions: HashMap<String, String>,
    behind: HashMap<String, Until>,
    lists: Lists,
}

impl<V> Default for Kind<V> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            listed: BTreeMap::new(),
            versions: HashMap::new(),
            behind: HashMap::new(),
            lists: Lists::default(),
        }
    }
}

impl<V> Kind<V> {
    fn hear<K: ResourceExt>(&mut self, event: Event<K>, view: impl Fn(K) -> V) {
        match event {
            Event::Init => {
                self.listed.clear();
                self.versions.clear();
                // The list is asked for after this, and nothing is written
                // before it is there: it is not behind what was written.
                self.behind.clear();
                self.lists.begun();
            }
            Event::InitApply(object) => {
                let name = object.name_any();
                self.remember(&name, &object);
                self.listed.insert(name, view(object));
            }
            Event::InitDone => {
                self.objects = std::mem::take(&mut self.listed);
                self.lists.ended();
            }
            Event::Apply(object) => {
                let name = object.name_any();
                match self.behind.get(&name) {
                    Some(Until::Version(version)) => {
                        if object.resource_version().as_ref() != Some(version) {
                            return;
                        }
                        self.behind.remove(&name);
                    }
                    Some(Until::Deletion) => return,
                    None => {}
                }
                self.remember(&name, &object);
                self.objects.insert(name, view(object));
            }
            Event::Delete(object) => self.forget(&object.name_any()),
        }
    }

    fn remember<K: ResourceExt>(&mut self, name: &str, object: &K) {
        if let Some(version) = object.resource_version() {
            self.versions.insert(name.to_owned(), version);
        }
    }

    fn forget(&mut self, name: &str) {
        self.behind.remove(name);
        self.versions.remove(name);
        self.objects.remove(name);
    }

    /// An object as a write answered it.
    fn wrote<K: ResourceExt>(&mut self, object: K, view: impl Fn(K) -> V) {
        let name = object.name_any();
        let version = object.resource_version();
        // A write that changed nothing is told by no watch.
        if let Some(version) = version.filter(|version| self.versions.get(&name) != Some(version)) {
            self.behind.insert(name.clone(), Until::Version(version));
        }
        self.remember(&name, &object);
        self.objects.insert(name, view(object));
    }

    fn deleted(&mut self, name: &str) {
        if self.objects.contains_key(name) {
            self.forget(name);
            self.behind.insert(name.to_owned(), Until::Deletion);
        }
    }
}

/// Everything known.
#[derive(Default)]
pub(crate) struct Cluster {
    configs: Kind<KataConfig>,
    kata_nodes: Kind<KataNode>,
    nodes: Kind<bulkhead_rollout::NodeView>,
    classes: Kind<bulkhead_rollout::ClassView>,
    pods: BTreeMap<String, (String, PodView)>,
    listed_pods: BTreeMap<String, (String, PodView)>,
    pod_lists: Lists,
    /// The system's extension, for where the cluster has a Machine Config
    /// Operator.
    extension: String,
    definitions: Kind<()>,
    /// Whether it has one, or had since this program began.
    has_machine_configs: bool,
    machine_configs: Kind<bulkhead_rollout::MachineConfigView>,
    pools: Kind<bulkhead_rollout::PoolView>,
}

impl Cluster {
    /// Nothing is known yet, but the extension a Machine Config Operator is to
    /// enable.
    pub(crate) fn new(extension: String) -> Self {
        Self {
            extension,
            ..Self::default()
        }
    }

    /// Takes in what a watch tells.
    pub(crate) fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Config(event) => self.configs.hear(event, lean),
            Heard::KataNode(event) => self.kata_nodes.hear(event, lean),
            Heard::Node(event) => self.nodes.hear(event, views::node),
            Heard::Class(event) => self.classes.hear(event, views::class),
            Heard::Pod(event) => self.hear_pod(event),
            Heard::Definition(event) => {
                self.definitions.hear(event, |_| ());
                self.has_machine_configs |= !self.definitions.objects.is_empty();
            }
            Heard::MachineConfig(event) => {
                self.machine_configs.hear(event, machine_config::config);
            }
            Heard::Pool(event) => self.pools.hear(event, machine_config::pool),
        }
    }

    /// Pods are many, and only those with a runtime class are kept.
    fn hear_pod(&mut self, event: Event<Pod>) {
        let uid = |pod: &Pod| pod.uid().unwrap_or_default();
        match event {
            Event::Init => {
                self.listed_pods.clear();
                self.pod_lists.begun();
            }
            Event::InitApply(pod) => {
                let uid = uid(&pod);
                if let Some(view) = views::pod(pod) {
                    self.listed_pods.insert(uid, view);
                }
            }
            Event::InitDone => {
                self.pods = std::mem::take(&mut self.listed_pods);
                self.pod_lists.ended();
            }
            Event::Apply(pod) => {
                let uid = uid(&pod);
                match views::pod(pod) {
                    Some(view) => self.pods.insert(uid, view),
                    None => self.pods.remove(&uid),
                };
            }
            Event::Delete(pod) => {
                self.pods.remove(&uid(&pod));
            }
        }
    }

    /// How far the lists of every kind are.
    fn lists(&self) -> impl Iterator<Item = Lists> {
        let always = [
            self.configs.lists,
            self.kata_nodes.lists,
            self.nodes.lists,
            self.classes.lists,
            self.pod_lists,
            self.definitions.lists,
        ];
        // A definition that is taken back leaves lists that never end.
        let defined = self.has_machine_configs && !self.definitions.objects.is_empty();
        let there = [self.machine_configs.lists, self.pools.lists];
        let there = there.into_iter().filter(move |_| defined);
        always.into_iter().chain(there)
    }

    /// Whether every watch has told everything once.
    pub(crate) fn complete(&self) -> bool {
        self.lists().all(|lists| lists.complete)
    }

    /// Whether what is known may be decided about: everything is, and no list
    /// is under way.
    pub(crate) fn settled(&self) -> bool {
        self.lists().all(|lists| lists.complete && !lists.running)
    }

    /// Whether the cluster has a Machine Config Operator.
    pub(crate) fn has_machine_configs(&self) -> bool {
        self.has_machine_configs
    }

    /// What decisions are made from. The tables are lent, not copied.
    pub(crate) fn lend(&mut self, into: &mut Snapshot) {
        into.configs = std::mem::take(&mut self.configs.objects);
        into.kata_nodes = std::mem::take(&mut self.kata_nodes.objects);
        into.nodes = std::mem::take(&mut self.nodes.objects);
        into.classes = std::mem::take(&mut self.classes.objects);
        into.machine_configs = self.has_machine_configs.then(|| MachineConfigs {
            extension: self.extension.clone(),
            configs: std::mem::take(&mut self.machine_configs.objects),
            pools: std::mem::take(&mut self.pools.objects),
        });
        into.pods.clear();
        for (node, pod) in self.pods.values() {
            into.pods.entry(node.clone()).or_default().push(pod.clone());
        }
        // The same pods in whatever order: the same words about them.
        for pods in into.pods.values_mut() {
            pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        }
    }

    /// Takes the tables back.
    pub(crate) fn take_back(&mut self, from: &mut Snapshot) {
        self.configs.objects = std::mem::take(&mut from.configs);
        self.kata_nodes.objects = std::mem::take(&mut from.kata_nodes);
        self.nodes.objects = std::mem::take(&mut from.nodes);
        self.classes.objects = std::mem::take(&mut from.classes);
        if let Some(views) = from.machine_configs.take() {
            self.machine_configs.objects = views.configs;
            self.pools.objects = views.pools;
        }
    }

    /// A `KataConfig` as it is known.
    pub(crate) fn config(&self, name: &str) -> Option<&KataConfig> {
        self.configs.objects.get(name)
    }

    /// A `KataNode` as it is known.
    pub(crate) fn kata_node(&self, name: &str) -> Option<&KataNode> {
        self.kata_nodes.objects.get(name)
    }

    /// A `KataConfig` as a write answered it.
    pub(crate) fn wrote_config(&mut self, object: KataConfig) {
        self.configs.wrote(object, lean);
    }

    /// A `KataNode` as a write answered it.
    pub(crate) fn wrote_kata_node(&mut self, object: KataNode) {
        self.kata_nodes.wrote(object, lean);
    }

    /// A node as a write answered it.
    pub(crate) fn wrote_node(&mut self, object: Node) {
        self.nodes.wrote(object, views::node);
    }

    /// A RuntimeClass as a write answered it.
    pub(crate) fn wrote_class(&mut self, object: RuntimeClass) {
        self.classes.wrote(object, views::class);
    }

    /// A MachineConfig as a write answered it.
    pub(crate) fn wrote_machine_config(&mut self, object: MachineConfig) {
        self.machine_configs.wrote(object, machine_config::config);
    }

    /// A MachineConfigPool as a write answered it.
    pub(crate) fn wrote_pool(&mut self, object: MachineConfigPool) {
        self.pools.wrote(object, machine_config::pool);
    }

    /// A MachineConfig is gone.
    pub(crate) fn deleted_machine_config(&mut self, name: &str) {
        self.machine_configs.deleted(name);
    }

    /// A MachineConfigPool is gone.
    pub(crate) fn deleted_pool(&mut self, name: &str) {
        self.pools.deleted(name);
    }

    /// A `KataConfig` is gone.
    pub(crate) fn deleted_config(&mut self, name: &str) {
        self.configs.deleted(name);
    }

    /// A `KataNode` is gone.
    pub(crate) fn deleted_kata_node(&mut self, name: &str) {
        self.kata_nodes.deleted(name);
    }

    /// A RuntimeClass is gone.
    pub(crate) fn deleted_class(&mut self, name: &str) {
        self.classes.deleted(name);
    }
}

/// Without the record of who wrote which field.
fn lean<K: ResourceExt>(mut object: K) -> K {
    object.managed_fields_mut().clear();
    object
}

#[cfg(test)]
mod tests;

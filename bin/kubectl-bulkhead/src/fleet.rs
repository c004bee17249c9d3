//! What the cluster says.

use std::collections::BTreeMap;

use bulkhead_kataconfig::{KataConfig, KataConfigStatus, KataNode, KataNodes, PlanStep};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use crate::Error;

/// `KataConfig`s and `KataNode`s by name.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    pub(crate) configs: BTreeMap<String, KataConfig>,
    pub(crate) kata_nodes: BTreeMap<String, KataNode>,
}

impl Fleet {
    /// Reads both.
    pub(crate) async fn read(client: &Client) -> Result<Self, Error> {
        let all = ListParams::default();
        let read = |what| move |source| Error::Read { what, source };
        let configs: Api<KataConfig> = Api::all(client.clone());
        let configs = configs.list(&all).await.map_err(read("KataConfigs"))?;
        let nodes: Api<KataNode> = Api::all(client.clone());
        let nodes = nodes.list(&all).await.map_err(read("KataNodes"))?;
        let configs = configs.items.into_iter();
        let nodes = nodes.items.into_iter();
        Ok(Self {
            configs: configs.map(|own| (own.name_any(), own)).collect(),
            kata_nodes: nodes.map(|own| (own.name_any(), own)).collect(),
        })
    }

    /// A node; none when there is no such node.
    pub(crate) async fn node(&self, client: &Client, name: &str) -> Result<Option<Node>, Error> {
        let nodes: Api<Node> = Api::all(client.clone());
        let read = |source| Error::Read {
            what: "nodes",
            source,
        };
        nodes.get_opt(name).await.map_err(read)
    }

    /// Which `KataConfig` has a node in which list.
    pub(crate) fn place(&self, node: &str) -> Option<(&str, &'static str)> {
        self.configs.iter().find_map(|(name, config)| {
            let status = config.status.as_ref()?;
            let lists = lists(&status.kata_nodes).into_iter();
            let mut holding = lists.filter(|(_, names)| names.iter().any(|own| own == node));
            holding.next().map(|(list, _)| (name.as_str(), list))
        })
    }

    /// The next step of a node.
    pub(crate) fn step(&self, node: &str) -> Option<&PlanStep> {
        let steps = self.configs.values().filter_map(|own| own.status.as_ref());
        let mut steps = steps.flat_map(|status| &status.plan.steps);
        steps.find(|step| step.node == node)
    }
}

/// The lists of a status, by their names.
pub(crate) fn lists(nodes: &KataNodes) -> [(&'static str, &[String]); 9] {
    [
        ("installed", &nodes.installed),
        ("installing", &nodes.installing),
        ("waitingToInstall", &nodes.waiting_to_install),
        ("failedToInstall", &nodes.failed_to_install),
        ("uninstalling", &nodes.uninstalling),
        ("waitingToUninstall", &nodes.waiting_to_uninstall),
        ("failedToUninstall", &nodes.failed_to_uninstall),
        ("ineligible", &nodes.ineligible),
        ("orphaned", &nodes.orphaned),
    ]
}

/// A condition's message, when it holds.
pub(crate) fn holding<'a>(status: &'a KataConfigStatus, kind: &str) -> Option<&'a str> {
    let mut all = status.conditions.iter();
    let found = all.find(|own| own.type_ == kind && own.status == "True")?;
    Some(&found.message)
}

/// Whether nothing is left to do for a `KataConfig`.
pub(crate) fn settled(config: &KataConfig) -> bool {
    let status = config.status.clone().unwrap_or_default();
    let told = status.observed_generation == config.metadata.generation;
    let mut progressing = status.conditions.iter();
    let known = progressing.any(|own| own.type_ == "Progressing");
    config.metadata.deletion_timestamp.is_none()
        && told
        && known
        && holding(&status, "Progressing").is_none()
}

//! The watches, as one stream.

use std::fmt::Debug;

use bulkhead_kataconfig::{KataConfig, KataNode};
use futures_util::stream::{BoxStream, SelectAll, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::serde::de::DeserializeOwned;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};

use crate::cluster::Heard;
use crate::machine_config::{MachineConfig, MachineConfigPool};
use crate::metrics::Metrics;

/// MachineConfigs in one answer.
const CONFIGS_AT_ONCE: u32 = 5;

/// The definition that is there where a Machine Config Operator is.
const POOLS: &str = "machineconfigpools.machineconfiguration.openshift.io";

/// News of many kinds.
pub(crate) type Streams = SelectAll<BoxStream<'static, Heard>>;

/// News of the cluster, without end: a watch that breaks is begun again, later
/// each time it breaks at once.
pub(crate) fn watches(client: &Client, metrics: &Metrics) -> Streams {
    let all = Config::default;
    // Pods that have ended need no node.
    let live = Config::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let definition = Config::default().fields(&format!("metadata.name={POOLS}"));
    let own = (client, metrics);
    SelectAll::from_iter([
        watch::<KataConfig>(own, all(), Heard::Config),
        watch::<KataNode>(own, all(), Heard::KataNode),
        watch::<Node>(own, all(), Heard::Node),
        watch::<RuntimeClass>(own, all(), Heard::Class),
        watch::<Pod>(own, live, Heard::Pod),
        // By its name, and without its schema.
        watch::<PartialObjectMeta<CustomResourceDefinition>>(own, definition, Heard::Definition),
    ])
}

/// News of OpenShift's kinds, once they are defined.
pub(crate) fn machine_configs(client: &Client, metrics: &Metrics) -> Streams {
    // Some have a megabyte of files in them: a few at a time.
    let few = Config::default().page_size(CONFIGS_AT_ONCE);
    let own = (client, metrics);
    SelectAll::from_iter([
        watch::<MachineConfig>(own, few, Heard::MachineConfig),
        watch::<MachineConfigPool>(own, Config::default(), Heard::Pool),
    ])
}

fn watch<K>(
    (client, metrics): (&Client, &Metrics),
    config: Config,
    heard: fn(Event<K>) -> Heard,
) -> BoxStream<'static, Heard>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let metrics = metrics.clone();
    let api: Api<K> = Api::all(client.clone());
    watcher(api, config)
        .default_backoff()
        .filter_map(move |event| {
            let event = event.inspect_err(|error| {
                metrics.watch_failed();
                tracing::warn!(kind = %K::kind(&()), %error, "a watch broke; it is begun again");
            });
            std::future::ready(event.ok().map(heard))
        })
        .boxed()
}

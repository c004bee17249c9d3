//! The watches, as one stream.

use std::fmt::Debug;

use bulkhead_kataconfig::{KataConfig, KataNode};
use futures_util::stream::{BoxStream, SelectAll, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::serde::de::DeserializeOwned;
use kube::api::Api;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};

use crate::cluster::Heard;
use crate::machine_config::{MachineConfig, MachineConfigPool};
use crate::metrics::Metrics;

/// MachineConfigs in one answer.
const CONFIGS_AT_ONCE: u32 = 5;

/// News of the cluster, without end: a watch that breaks is begun again, later
/// each time it breaks at once.
/// With `machine_configs`, OpenShift's too.
pub(crate) fn watches(
    client: &Client,
    metrics: &Metrics,
    machine_configs: bool,
) -> SelectAll<BoxStream<'static, Heard>> {
    let all = Config::default();
    // Pods that have ended need no node.
    let live = Config::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let mut streams = SelectAll::new();
    streams.push(watch::<KataConfig>(
        client,
        all.clone(),
        metrics,
        Heard::Config,
    ));
    streams.push(watch::<KataNode>(
        client,
        all.clone(),
        metrics,
        Heard::KataNode,
    ));
    streams.push(watch::<Node>(client, all.clone(), metrics, Heard::Node));
    streams.push(watch::<RuntimeClass>(
        client,
        all.clone(),
        metrics,
        Heard::Class,
    ));
    streams.push(watch::<Pod>(client, live, metrics, Heard::Pod));
    if machine_configs {
        // Some have a megabyte of files in them: a few at a time.
        let few = Config::default().page_size(CONFIGS_AT_ONCE);
        streams.push(watch::<MachineConfig>(
            client,
            few,
            metrics,
            Heard::MachineConfig,
        ));
        streams.push(watch::<MachineConfigPool>(
            client,
            all,
            metrics,
            Heard::Pool,
        ));
    }
    streams
}

fn watch<K>(
    client: &Client,
    config: Config,
    metrics: &Metrics,
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

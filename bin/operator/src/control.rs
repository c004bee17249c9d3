//! The controller: hears, decides, writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_kataconfig::OPERATOR;
use bulkhead_rollout::{Change, Outcome, Snapshot, Step, plan};
use futures_util::FutureExt;
use futures_util::stream::StreamExt;
use jiff::Timestamp;
use kube::{Client, Config};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::apply::{Writer, kind, shown, why};
use crate::cluster::{Cluster, Heard};
use crate::metrics::Metrics;
use crate::watch::{Streams, machine_configs, watches};
use crate::{Error, Run};

/// How long the lease is valid, and how long before its end it is renewed, in
/// seconds: rarely, because a second operator may well wait a minute.
const LEASE: u64 = 60;
const RENEWED_BEFORE: u64 = 20;
/// First and longest pause after a write that failed.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Failures in a row after which people are told: conflicts and restarts of an
/// API server are over before.
const REFUSED_AFTER: u32 = 5;
/// Longest pause of any kind: Tokio's timers are not made for years.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Runs until a signal says otherwise.
pub(crate) async fn run(run: Run) -> Result<(), Error> {
    let config = Config::infer().await.map_err(Error::Config)?;
    let client = Client::try_from(config).map_err(Error::Client)?;
    let metrics = Metrics::new();
    bulkhead_telemetry::serve(run.metrics_address, Arc::new(metrics.clone())).await?;
    let mut term = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut int = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let identity = identity(&run);
    let lease = lease(&client, &run, &identity).await?;
    let (leading, renewal) = lease.watch().await;
    let streams = watches(&client, &metrics);
    let mut control = Control {
        cluster: Cluster::new(run.extension),
        snapshot: Snapshot {
            releases: run.releases.into_iter().collect::<BTreeMap<_, _>>(),
            ..Snapshot::default()
        },
        writer: Writer::new(&client, &identity),
        client,
        metrics,
        leading,
        pause: PAUSE,
        failures: 0,
    };
    let ended = tokio::select! {
        ended = control.run(streams) => ended,
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
    };
    // Without a receiver the lease is released, and the next operator need not
    // wait for its end.
    drop(control);
    if let Ok(Ok(lease)) = tokio::time::timeout(Duration::from_secs(5), renewal).await {
        drop(lease);
    }
    tracing::info!("stopped");
    ended
}

fn identity(run: &Run) -> String {
    let number = std::process::id();
    run.identity
        .clone()
        .unwrap_or_else(|| format!("{OPERATOR}-{number}-{}", Timestamp::now().as_second()))
}

async fn lease(client: &Client, run: &Run, identity: &str) -> Result<LeaseManager, Error> {
    LeaseManagerBuilder::new(client.clone(), OPERATOR)
        .with_namespace(&run.namespace)
        .with_identity(identity)
        .with_field_manager(OPERATOR.to_owned() + "/" + identity)
        .with_duration(LEASE)
        .with_grace(RENEWED_BEFORE)
        .build()
        .await
        .map_err(|source| Error::Lease {
            namespace: run.namespace.clone(),
            source,
        })
}

struct Control {
    cluster: Cluster,
    snapshot: Snapshot,
    writer: Writer,
    client: Client,
    metrics: Metrics,
    leading: watch::Receiver<bool>,
    pause: Duration,
    failures: u32,
}

impl Control {
    async fn run(&mut self, mut heard: Streams) -> Result<(), Error> {
        let mut wake = None;
        loop {
            tokio::select! {
                news = heard.next() => self.hear(news.ok_or(Error::WatchesEnded)?, &mut heard),
                changed = self.leading.changed() => changed.map_err(|_| Error::WatchesEnded)?,
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
            // All that is there: one decision for many changes.
            while let Some(Some(news)) = heard.next().now_or_never() {
                self.hear(news, &mut heard);
            }
            let leads = *self.leading.borrow_and_update();
            self.metrics.leads(leads);
            self.metrics.ready(self.cluster.complete());
            wake = match leads && self.cluster.settled() {
                true => self.decide().await,
                false => None,
            };
        }
    }

    /// Takes in news, and listens to more once there is a Machine Config
    /// Operator.
    fn hear(&mut self, news: Heard, streams: &mut Streams) {
        let before = self.cluster.has_machine_configs();
        self.cluster.hear(news);
        if !before && self.cluster.has_machine_configs() {
            tracing::info!("this cluster has MachineConfigs");
            streams.extend(machine_configs(&self.client, &self.metrics));
        }
    }

    /// One decision and its writes; the answer is when to decide again.
    async fn decide(&mut self) -> Option<Instant> {
        let begun = Instant::now();
        self.snapshot.now = Timestamp::now();
        self.cluster.lend(&mut self.snapshot);
        let Outcome { steps, wake } = plan(&self.snapshot);
        self.metrics.decided(begun.elapsed(), &self.snapshot);
        self.cluster.take_back(&mut self.snapshot);
        let next = wake.map(|at| until(at, self.snapshot.now));
        let mut failed = None;
        for Step { change, notices } in steps {
            // Another operator may have taken over during these writes.
            if !*self.leading.borrow() {
                return None;
            }
            // What comes after a step needs it, but a status says what is so
            // without it.
            let status = matches!(change, Change::SetStatus { .. });
            if failed.is_some() && !(status && self.snapshot.refused.is_some()) {
                continue;
            }
            let (kind, what) = (kind(&change), shown(&change));
            let done = self.writer.apply(&mut self.cluster, change).await;
            self.metrics.wrote(kind, done.is_ok());
            if let Err(error) = done {
                tracing::warn!(kind, %error, "a write failed; the rest is decided anew");
                failed.get_or_insert(format!("{what}: {}", why(&error)));
                continue;
            }
            for notice in &notices {
                tracing::info!(
                    config = notice.config,
                    reason = notice.reason,
                    "{}",
                    notice.message
                );
                self.writer.tell(&self.cluster, notice).await;
            }
        }
        match failed {
            None => self.succeeded(next),
            Some(refused) => Some(self.failed(refused, next)),
        }
    }

    /// All was written; the answer is when to decide again.
    fn succeeded(&mut self, next: Option<Instant>) -> Option<Instant> {
        (self.pause, self.failures) = (PAUSE, 0);
        // What was told of a refusal is not true any more.
        let told = self.snapshot.refused.take().is_some();
        if told { Some(Instant::now()) } else { next }
    }

    /// A write failed; the answer is when to decide again. One that fails again
    /// and again is told of.
    fn failed(&mut self, refused: String, next: Option<Instant>) -> Instant {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= REFUSED_AFTER {
            self.snapshot.refused = Some(refused);
        }
        let again = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        next.map_or(again, |next| next.min(again))
    }
}

fn until(at: Timestamp, now: Timestamp) -> Instant {
    let left = Duration::try_from(at.duration_since(now)).unwrap_or_default();
    Instant::now() + left.min(LONGEST)
}

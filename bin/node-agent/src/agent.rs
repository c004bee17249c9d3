//! The agent: hears, works, tells.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bulkhead_installer::Step;
use bulkhead_kataconfig::{KataNode, KataNodeSpec, KataNodeStatus, NodePhase, parse_duration};
use futures_util::stream::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::machine::{Machine, Proof, Refusal, Seen, Serves};
use crate::metrics::{Ended, Metrics};
use crate::order::{self, Work};
use crate::{Cli, Error, words};

/// The agent's field manager.
const MANAGER: &str = "bulkhead-node-agent";
/// How often is verified when the order's interval cannot be read.
const INTERVAL: Duration = Duration::from_secs(3600);
/// First and longest pause after a write that failed.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long work that was asked to stop may take to come to its next step.
const STOP: Duration = Duration::from_secs(20);

/// Works until a signal says otherwise.
pub(crate) async fn run(cli: Cli) -> Result<(), Error> {
    let client = client(&cli).await?;
    let mut term = signal(SignalKind::terminate()).map_err(Error::Kernel)?;
    let mut int = signal(SignalKind::interrupt()).map_err(Error::Kernel)?;
    let machine = Machine::new(cli.machine);
    let own = machine
        .id()
        .map_err(|error| Error::Machine(Box::new(error)))?;
    let metrics = Metrics::new();
    if let Some(address) = cli.metrics_address {
        bulkhead_telemetry::serve(address, Arc::new(metrics.clone())).await?;
    }
    let api: Api<KataNode> = Api::all(client);
    let (sender, steps) = mpsc::unbounded_channel();
    let mut agent = Agent {
        api: api.clone(),
        name: cli.node_name.clone(),
        machine,
        own,
        stop: Arc::new(AtomicBool::new(false)),
        sender,
        node: None,
        told: KataNodeStatus::default(),
        unwritten: false,
        pause: PAUSE,
        write_at: None,
        look_at: Some(Instant::now()),
        running: None,
        begun: None,
        metrics,
    };
    // The name was checked: it holds nothing a selector gives a meaning.
    let only = Config::default().fields(&format!("metadata.name={}", cli.node_name));
    let events = watcher(api, only).default_backoff();
    tracing::info!(
        node = cli.node_name,
        machine = agent.own,
        "waiting for orders"
    );
    let ended = tokio::select! {
        ended = agent.run(events, steps) => ended,
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
    };
    agent.stop().await;
    tracing::info!("stopped");
    ended
}

async fn client(cli: &Cli) -> Result<Client, Error> {
    let config = match &cli.kubeconfig {
        None => kube::Config::infer().await.map_err(Error::Infer)?,
        Some(path) => {
            let failed = |source| Error::Kubeconfig {
                path: path.clone(),
                source,
            };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            let options = KubeConfigOptions::default();
            kube::Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(failed)?
        }
    };
    Client::try_from(config).map_err(Error::Client)
}

/// What came of a work.
#[derive(Debug)]
enum Outcome {
    Looked(Seen, Result<Serves, Refusal>),
    Installed(Seen, Result<Serves, Refusal>, Serves),
    Verified(Result<Proof, Refusal>),
    Uninstalled(Result<(), Refusal>, Serves),
}

impl Outcome {
    fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Looked(..) => None,
            Self::Installed(_, done, _) => done.as_ref().err(),
            Self::Verified(done) => done.as_ref().err(),
            Self::Uninstalled(done, _) => done.as_ref().err(),
        }
    }

    fn ended(&self) -> Ended {
        match (self, self.refusal()) {
            (_, Some(refusal)) if refusal.stopped() => Ended::Stopped,
            (_, Some(_)) => Ended::Failed,
            (Self::Verified(Ok(proof)), _) if proof.wrong.is_some() => Ended::Failed,
            _ => Ended::Done,
        }
    }

    /// What the machine was found to serve as it was installed.
    fn proven(&self) -> Option<&Serves> {
        match self {
            Self::Installed(_, Ok(serves), _) => Some(serves),
            Self::Verified(Ok(proof)) if proof.wrong.is_none() => Some(&proof.serves),
            _ => None,
        }
    }
}

struct Agent {
    api: Api<KataNode>,
    name: String,
    machine: Machine,
    own: String,
    /// Whether work is to stop at its next step.
    stop: Arc<AtomicBool>,
    sender: mpsc::UnboundedSender<Step>,
    node: Option<KataNode>,
    /// The status as it is to be.
    told: KataNodeStatus,
    /// Whether the API server does not have it yet.
    unwritten: bool,
    pause: Duration,
    write_at: Option<Instant>,
    /// When to look again at what was found good.
    look_at: Option<Instant>,
    running: Option<JoinHandle<Outcome>>,
    /// What runs, and since when.
    begun: Option<Begun>,
    metrics: Metrics,
}

/// A work that was begun.
struct Begun {
    work: Work,
    at: Instant,
    /// Whether a pod of each handler is run for it.
    smoke: bool,
}

impl Agent {
    async fn run(
        &mut self,
        events: impl Stream<Item = watcher::Result<Event<KataNode>>>,
        mut steps: mpsc::UnboundedReceiver<Step>,
    ) -> Result<(), Error> {
        let mut events = std::pin::pin!(events);
        let mut listed = false;
        loop {
            tokio::select! {
                event = events.next() => match event.ok_or(Error::WatchEnded)? {
                    Ok(Event::Init) => listed = false,
                    Ok(Event::InitApply(node)) => {
                        listed = true;
                        self.hear(node);
                    }
                    Ok(Event::Apply(node)) => self.hear(node),
                    Ok(Event::InitDone) => {
                        self.metrics.hears();
                        if !listed {
                            self.forget();
                        }
                    }
                    Ok(Event::Delete(_)) => self.forget(),
                    Err(error) => tracing::warn!(%error, "the watch broke; it is begun again"),
                },
                Some(step) = steps.recv() => self.step(step),
                done = wait(&mut self.running), if self.running.is_some() => {
                    self.running = None;
                    // Steps are told before the end.
                    while steps.try_recv().is_ok() {}
                    match done {
                        Ok(outcome) => {
                            self.count(&outcome);
                            self.end(outcome);
                        }
                        Err(error) => self.fail(&format!("the agent's work ended: {error}")),
                    }
                }
                () = until(self.write_at), if self.write_at.is_some() => self.write_at = None,
                () = until(self.look_at), if self.looks() => {}
            }
            self.begin();
            self.metrics
                .tell(&self.told, self.node.as_ref().map(|node| &node.spec));
            self.write().await;
        }
    }

    /// Counts a work that ended.
    fn count(&mut self, outcome: &Outcome) {
        let Some(Begun { work, at, smoke }) = self.begun.take() else {
            return;
        };
        self.metrics.worked(work, at.elapsed(), outcome.ended());
        match outcome.proven() {
            Some(serves) if smoke => self.metrics.verified(&serves.handlers),
            Some(_) => self.metrics.verified(&[]),
            None if work == Work::Uninstall && outcome.ended() == Ended::Done => {
                self.metrics.removed();
            }
            None => {}
        }
    }

    /// Whether it is to look again at some time.
    fn looks(&self) -> bool {
        let works = |node| order::next(node, &self.told, &self.own, true).is_some();
        self.running.is_none() && self.look_at.is_some() && self.node.as_ref().is_some_and(works)
    }

    fn hear(&mut self, node: KataNode) {
        let same = self
            .node
            .as_ref()
            .is_some_and(|known| known.uid() == node.uid());
        if !same {
            self.told = node.status.clone().unwrap_or_default();
            self.unwritten = false;
        }
        if node.spec.machine_id != self.own {
            tracing::info!(
                meant = node.spec.machine_id.escape_debug().to_string(),
                "the order is for another machine"
            );
        }
        self.node = Some(node);
    }

    /// The object is gone, and with it whatever there was to tell.
    fn forget(&mut self) {
        self.node = None;
        self.told = KataNodeStatus::default();
        self.unwritten = false;
    }

    /// Begins what is next, unless something runs.
    fn begin(&mut self) {
        if self.running.is_some() || self.stop.load(Ordering::Relaxed) {
            return;
        }
        let Some(node) = &self.node else {
            return;
        };
        let due = self.look_at.is_some_and(|at| at <= Instant::now());
        if let Some(work) = order::next(node, &self.told, &self.own, due) {
            let (spec, generation) = (node.spec.clone(), node.metadata.generation);
            tracing::info!(?work, generation, "begun");
            self.told.observed_generation = generation;
            self.told.machine_id.clone_from(&self.own);
            self.told.kernel = kernel();
            self.start(work, spec);
        }
    }

    fn start(&mut self, work: Work, spec: KataNodeSpec) {
        match work {
            Work::Install => self.phase(NodePhase::Installing, "looking at the machine"),
            Work::Uninstall => self.phase(NodePhase::Uninstalling, "looking for running pods"),
            Work::Look | Work::Verify => {}
        }
        let interval = parse_duration(&spec.verification.interval).unwrap_or(INTERVAL);
        self.metrics.verifies_every(interval);
        self.begun = Some(Begun {
            work,
            at: Instant::now(),
            smoke: spec.verification.enabled,
        });
        self.look_at = Some(Instant::now() + interval);
        let (machine, stop) = (self.machine.clone(), Arc::clone(&self.stop));
        let sender = self.sender.clone();
        self.running = Some(tokio::task::spawn_blocking(move || {
            let mut observer = |step| {
                // Nobody listens any more: the agent ends.
                let _ = sender.send(step);
                match stop.load(Ordering::Relaxed) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            };
            let left = |machine: &Machine| machine.serves(&spec).unwrap_or_default();
            match work {
                Work::Look => Outcome::Looked(machine.look(), machine.serves(&spec)),
                Work::Install => {
                    let seen = machine.look();
                    let done = machine.install(&spec, &seen, &mut observer);
                    let left = left(&machine);
                    Outcome::Installed(seen, done, left)
                }
                Work::Verify => {
                    let smoke = spec.verification.enabled;
                    Outcome::Verified(machine.verify(&spec, smoke, &mut observer))
                }
                Work::Uninstall => {
                    let done = machine.uninstall(&spec, &mut observer);
                    Outcome::Uninstalled(done, left(&machine))
                }
            }
        }));
    }

    fn step(&mut self, step: Step) {
        let works = matches!(
            self.told.phase,
            NodePhase::Installing | NodePhase::Uninstalling
        );
        if let Some((doing, percent)) = words::step(step).filter(|_| works) {
            self.told.step = Some(words::doing(doing));
            self.told.percent = Some(percent);
            self.unwritten = true;
        }
    }

    fn end(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Looked(seen, serves) => {
                let wrong = serves
                    .as_ref()
                    .err()
                    .map(|error| bulkhead_installer::chain(error));
                let before = self.told.clone();
                self.saw(seen);
                self.serve(serves.unwrap_or_default());
                self.told.last_error = wrong.as_deref().map(words::error);
                if before.phase != NodePhase::Idle || before.since.is_none() {
                    self.phase(NodePhase::Idle, "");
                }
                self.told.step = None;
                self.told.percent = None;
                self.unwritten = true;
            }
            Outcome::Installed(_, Err(error), _) | Outcome::Uninstalled(Err(error), _)
                if error.stopped() => {}
            Outcome::Installed(seen, done, left) => {
                self.saw(seen);
                match done {
                    Ok(serves) => {
                        self.serve(serves);
                        self.succeed(NodePhase::Ready);
                    }
                    Err(error) => {
                        self.serve(left);
                        self.fail(&bulkhead_installer::chain(&error));
                    }
                }
            }
            Outcome::Uninstalled(Ok(()), _) => {
                self.serve(Serves::default());
                self.succeed(NodePhase::Removed);
            }
            Outcome::Uninstalled(Err(error), left) => {
                self.serve(left);
                self.fail(&bulkhead_installer::chain(&error));
            }
            Outcome::Verified(Ok(proof)) => self.proved(proof),
            Outcome::Verified(Err(error)) if error.stopped() => {}
            Outcome::Verified(Err(error)) => self.fail(&bulkhead_installer::chain(&error)),
        }
    }

    /// What is wrong and can be mended is, at once and in the open: a machine
    /// that drifted serves no less while that is done.
    fn proved(&mut self, proof: Proof) {
        let spec = self.node.as_ref().map(|node| node.spec.clone());
        let before = self.told.clone();
        self.serve(proof.serves);
        match (proof.wrong, spec) {
            (None, _) => {
                self.unwritten |= self.told != before;
                tracing::info!("verified");
            }
            (Some(wrong), Some(spec)) if proof.mendable && self.ordered(&spec) => {
                tracing::warn!("not as installed, installed again: {wrong}");
                self.metrics.mends();
                self.told.last_error = Some(words::error(&format!("not as installed: {wrong}")));
                self.start(Work::Install, spec);
            }
            (Some(wrong), _) => self.fail(&wrong),
        }
    }

    /// Whether the order is still the one that was verified.
    fn ordered(&self, spec: &KataNodeSpec) -> bool {
        let generation = self.node.as_ref().and_then(|node| node.metadata.generation);
        generation == self.told.observed_generation
            && spec.action == bulkhead_kataconfig::Action::Install
    }

    fn saw(&mut self, seen: Seen) {
        self.told.preflight = seen.preflight;
        self.told.virtualization = seen.virtualization;
    }

    fn serve(&mut self, serves: Serves) {
        self.told.version = serves.version.as_deref().map(words::fact);
        self.told.handlers = serves.handlers;
    }

    fn phase(&mut self, phase: NodePhase, doing: &str) {
        self.told.phase = phase;
        self.told.step = Some(words::doing(doing));
        self.told.percent = Some(0);
        self.told.since = Some(Time(Timestamp::now()));
        self.unwritten = true;
    }

    fn succeed(&mut self, phase: NodePhase) {
        tracing::info!(?phase, "done");
        self.phase(phase, "");
        self.told.step = None;
        self.told.percent = Some(100);
        self.told.last_error = None;
        self.told.retries = 0;
    }

    fn fail(&mut self, reason: &str) {
        tracing::warn!("failed: {reason}");
        let step = self.told.step.take();
        self.phase(NodePhase::Failed, step.as_deref().unwrap_or_default());
        self.told.percent = None;
        self.told.last_error = Some(words::error(reason));
        self.told.retries = self.told.retries.saturating_add(1);
    }

    /// Tells the API server, unless a failed write is waited for.
    async fn write(&mut self) {
        if !self.unwritten || self.write_at.is_some() {
            return;
        }
        let Some(node) = &self.node else {
            return;
        };
        // The identity keeps the word about one object from another of its name.
        let body = serde_json::json!({
            "apiVersion": "kataconfiguration.openshift.io/v1alpha1",
            "kind": "KataNode",
            "metadata": {"name": self.name, "uid": node.uid()},
            "status": self.told,
        });
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(body);
        match self.api.patch_status(&self.name, &params, &patch).await {
            Ok(_) => {
                self.metrics.wrote(true);
                self.unwritten = false;
                self.pause = PAUSE;
            }
            Err(error) => {
                self.metrics.wrote(false);
                tracing::warn!(%error, "the status could not be written");
                self.write_at = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// Lets work come to its next step, where the journal holds all of it.
    async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(running) = self.running.take()
            && let Ok(Ok(outcome)) = tokio::time::timeout(STOP, running).await
            // What a verification found, the next agent finds again and mends.
            && !matches!(outcome, Outcome::Verified(_))
        {
            self.end(outcome);
            self.write_at = None;
            let _ = tokio::time::timeout(PAUSE, self.write()).await;
        }
    }
}

async fn wait(
    running: &mut Option<JoinHandle<Outcome>>,
) -> Result<Outcome, tokio::task::JoinError> {
    match running {
        Some(running) => running.await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn kernel() -> Option<String> {
    let name = rustix::system::uname();
    Some(words::fact(&name.release().to_string_lossy()))
}

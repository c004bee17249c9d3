//! The life of a pod's machine: prepared, booted in the background, ended.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_bundle::Growth;
use bulkhead_config::{ConfigError, Loaded};
use bulkhead_provision::{helper, scope};
use bulkhead_sandbox::Sandbox;
use bulkhead_sys::cgroup::{Cgroup, CgroupError, Origin};
use oci_spec::runtime::Spec;

use super::{Pod, control, membership, ports, status};
use crate::failure::{Failure, Outcome};
use crate::layers::Layers;
use crate::logging;
use crate::machine::{self, Machine, Networks};
use crate::process::Exit;
use crate::trace::{BOOT, Call, Tracer};

/// How long a guest may take to write what its containers wrote to shared
/// directories.
const SYNC_GRACE: Duration = Duration::from_secs(10);

/// Console lines quoted when a machine ends by itself.
const QUOTED_LINES: usize = 10;

/// Exit code of what ran when the machine ended.
pub(super) const LOST: u32 = 255;

/// What the pod's group on the host may have.
#[derive(Default)]
struct Limits {
    /// Bytes.
    memory: Option<u64>,
    /// Processes and threads. On the host only the machine's own threads would
    /// count, so that it has to hold in the guest.
    pids: Option<u64>,
}

impl Pod {
    /// Prepares the machine and lets it boot.
    pub(super) fn begin(
        self: &Arc<Self>,
        spec: &Spec,
        config: Option<&str>,
        networks: Networks,
        call: &Call,
    ) -> Outcome<()> {
        if self.lock().size.is_some() {
            return Err(Failure::state("the pod has its machine already"));
        }
        let wrong = |error: ConfigError| Failure::invalid(bulkhead_provision::chain(&error));
        let named = config.filter(|path| !path.is_empty()).map(Path::new);
        let config = Loaded::read(named).map_err(wrong)?.config;
        let annotations = spec.annotations().clone().unwrap_or_default();
        let config = config.with_annotations(&annotations).map_err(wrong)?;
        logging::level(&config.log_level);
        bulkhead_bundle::refuse_host(spec)?;
        let group = membership::group(spec)?;
        let limits = self.join_cgroup(spec)?;
        let size = bulkhead_bundle::size(spec, &config, limits.memory)?;
        let spare = bulkhead_bundle::spare(spec, &config, size, limits.memory.is_some());
        let size = Growth::new(size, spare, &config);
        let (debug, trace, layers) = (config.debug, config.trace, Layers::of(&config));
        let mut machine = machine::prepare(spec, &config, &self.place, size, networks)?;
        machine.config.guest.pids_limit = limits.pids.unwrap_or(0);
        if let Some(reason) = machine.monitor.emulated() {
            tracing::warn!(
                reason,
                "no usable KVM: the guest is emulated, slow and no boundary"
            );
        }
        let network = machine.take_network();
        let Machine {
            monitor,
            config,
            helpers,
            share,
            ..
        } = machine;
        {
            let mut state = self.lock();
            state.share = Some(share);
            state.size = Some(size);
            state.group = group;
            state.of_crio = bulkhead_bundle::is_of_crio(spec);
            state.logs = bulkhead_bundle::log_directory(spec);
            state.debug = debug;
            state.layers = layers;
            state.kubernetes = bulkhead_bundle::kubernetes(spec);
            state.tracer = trace.then(|| Tracer::new(&self.id, state.kubernetes.as_ref()));
            state.sysctls = bulkhead_bundle::sysctls(spec);
        }
        status::serve(self);
        control::serve(self);
        let forwarding =
            bulkhead_bundle::network(spec).and_then(|path| ports::forward(self, &path));
        let pod = Arc::clone(self);
        let boot = call.part(BOOT, &self.id);
        tokio::spawn(async move {
            let mut helpers = helpers;
            let start = Sandbox::start(monitor.hypervisor(), config);
            let reason = pod.live(start, &mut helpers, &boot).await;
            drop((forwarding, helpers, network));
            pod.ended(reason);
        });
        Ok(())
    }

    /// Moves this process, and with it all it starts, to where the pod is
    /// accounted for.
    fn join_cgroup(&self, spec: &Spec) -> Outcome<Limits> {
        let Some(path) = bulkhead_bundle::cgroup(spec) else {
            return Ok(Limits::default());
        };
        let failed = |error: CgroupError| Failure::from_error(&error);
        let cgroup = Cgroup::of(&path).map_err(failed)?;
        // Written down first: this process may be killed at any moment.
        let noted = self.place.note_cgroup(&path);
        noted.map_err(|error| Failure::from_error(&error))?;
        let origin = cgroup.join().map_err(failed)?;
        self.lock().origin = Some(origin);
        let description = format!("pod {} in a machine of its own", self.id);
        // Beside the rest.
        tokio::spawn(async move {
            scope::tell(&path, &description, std::process::id()).await;
        });
        Ok(Limits {
            memory: cgroup.memory_limit(),
            pids: cgroup.pids_limit(),
        })
    }

    /// Goes back to where this process was started, and removes the pod's
    /// group.
    pub(super) fn leave_cgroup(&self) {
        let origin = self.lock().origin.take();
        match origin.as_ref().map(Origin::leave) {
            Some(Err(error)) => {
                tracing::warn!(error = bulkhead_provision::chain(&error), "left behind");
            }
            Some(Ok(())) => {
                self.place.remove_cgroup();
            }
            None => {}
        }
    }

    /// The machine from its start to its end; why it ended.
    async fn live(
        &self,
        start: impl Future<Output = Result<Sandbox, bulkhead_sandbox::StartError>>,
        helpers: &mut [bulkhead_provision::Helper],
        boot: &Call,
    ) -> String {
        let started = tokio::select! {
            biased;
            () = self.stop.notified() => Err("the pod was stopped while it started".to_owned()),
            started = start => started.map_err(|error| error.to_string()),
            text = helper::failure(helpers) => Err(text),
        };
        self.traced_boot(boot, &started);
        let sandbox = match started {
            Ok(sandbox) => Arc::new(sandbox),
            Err(text) => {
                self.boot.send_replace(Some(Err(text.clone())));
                return text;
            }
        };
        for timing in sandbox.timings() {
            tracing::info!(phase = timing.phase, took = ?timing.took, "started");
        }
        self.boot.send_replace(Some(Ok(Arc::clone(&sandbox))));
        tokio::select! {
            biased;
            () = self.stop.notified() => {
                sandbox.shut_down(SYNC_GRACE).await;
                "the pod was stopped".to_owned()
            }
            exit = sandbox.ended() => {
                let lines = sandbox.console().last(QUOTED_LINES);
                let mut text = exit.to_string();
                for line in lines {
                    text.push_str("\n  | ");
                    text.push_str(&line);
                }
                text
            }
            text = helper::failure(helpers) => {
                sandbox.kill();
                sandbox.ended().await;
                text
            }
        }
    }

    /// Tells of the start, and of its parts.
    fn traced_boot(&self, boot: &Call, started: &Result<Sandbox, String>) {
        let tracer = self.lock().tracer.clone();
        if let Some(tracer) = tracer {
            if let Ok(sandbox) = started {
                tracer.phases(boot, sandbox.timings());
            }
            tracer.ended(boot, None, started.as_ref().err().cloned());
        }
    }

    /// Tells everybody that the machine is gone.
    fn ended(&self, reason: String) {
        tracing::info!(reason, "the machine ended");
        let (waiting, code) = {
            let mut state = self.lock();
            state.reason = Some(reason);
            // The server's mounts go when nobody holds its namespace any more.
            state.share = None;
            let waiting: Vec<_> = state
                .containers
                .iter()
                .filter(|(_, container)| container.is_pod())
                .map(|(id, container)| (id.clone(), Arc::clone(container.main())))
                .collect();
            (waiting, state.signal.map_or(LOST, |signal| 128 + signal))
        };
        self.over.send_replace(true);
        for (id, process) in waiting {
            self.stopped(&id, "", &process, Exit::now(code));
        }
    }

    /// Ends the machine and waits until that is done. Nothing happens when
    /// there is none.
    pub(crate) async fn end_machine(&self) {
        if self.lock().size.is_none() {
            return;
        }
        self.stop.notify_one();
        let mut over = self.over.subscribe();
        let _ = over.wait_for(|over| *over).await;
    }

    /// The machine, once it has booted.
    pub(super) async fn booted(&self) -> Outcome<Arc<Sandbox>> {
        let mut boot = self.boot.subscribe();
        let booted = boot.wait_for(Option::is_some).await;
        match booted.as_deref() {
            Ok(Some(Ok(sandbox))) => Ok(Arc::clone(sandbox)),
            Ok(Some(Err(text))) => Err(Failure::internal(format!("the pod did not start: {text}"))),
            _ => Err(Failure::gone("the pod is ending")),
        }
    }

    /// The machine, if it runs.
    pub(super) fn running(&self) -> Outcome<Arc<Sandbox>> {
        if *self.over.borrow() {
            let reason = self.lock().reason.clone().unwrap_or_default();
            return Err(Failure::gone(format!("the pod has ended: {reason}")));
        }
        match &*self.boot.borrow() {
            Some(Ok(sandbox)) => Ok(Arc::clone(sandbox)),
            Some(Err(text)) => Err(Failure::internal(format!("the pod did not start: {text}"))),
            None => Err(Failure::state("the pod is still starting")),
        }
    }
}

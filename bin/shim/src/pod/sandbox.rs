//! The pod as containerd 2's Sandbox API has it: it is no task, and no event
//! tells of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_sandbox::Stats;
use containerd_shim_protos::sandbox_api::CreateSandboxRequest;
use oci_spec::runtime::Spec;

use super::{Container, Pod};
use crate::failure::{Failure, Outcome};
use crate::machine::Networks;
use crate::options;
use crate::process::{Process, Status};
use crate::stdio::Paths;
use crate::trace::Call;

/// The signal a sandbox is stopped by.
const TERM: u32 = 15;

/// How long a machine may take to end when containerd names no time.
const GRACE: Duration = Duration::from_secs(10);

impl Pod {
    /// Its id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Seconds since the epoch when this process began.
    pub(crate) fn started(&self) -> u64 {
        self.started
    }

    /// Makes the pod, from the bundle's spec or, where there is none, from the
    /// CRI's description.
    pub(crate) fn create_sandbox(
        self: &Arc<Self>,
        request: CreateSandboxRequest,
        call: &Call,
    ) -> Outcome<()> {
        let id = request.sandbox_id.clone();
        if id != self.id {
            return Err(Failure::invalid(format!(
                "this process was started for the sandbox `{}`, not for `{id}`",
                self.id
            )));
        }
        let _creation = self.creation(&id)?;
        let spec = sandbox_spec(&request)?;
        let options = request.options.as_ref();
        let path = options.and_then(|any| options::path_in_options(&any.type_url, &any.value));
        self.lock().by_sandbox_api = true;
        self.begin(&spec, path.as_deref(), Networks::First, call)?;
        let process = Process::new(Paths::default(), None);
        let container = Container::pod(PathBuf::from(request.bundle_path), process);
        self.lock().containers.insert(id, container);
        Ok(())
    }

    /// The sandbox, if it is this one.
    pub(crate) fn sandbox(&self, id: &str) -> Outcome<Arc<Process>> {
        self.with(id, |container| match container.is_pod() {
            true => Ok(Arc::clone(container.main())),
            false => Err(Failure::missing(format!("`{id}` is no sandbox"))),
        })
    }

    /// Ends the machine, and with it every container; once or again.
    pub(crate) async fn stop_sandbox(&self, id: &str, grace: Duration) -> Outcome<()> {
        let process = self.sandbox(id)?;
        if !matches!(process.status(), Status::Stopped(_)) {
            self.lock().signal = Some(TERM);
            self.stop.notify_one();
        }
        let grace = if grace.is_zero() { GRACE } else { grace };
        match tokio::time::timeout(grace, process.ended()).await {
            Ok(_) => Ok(()),
            Err(_) => {
                // Its guest had its time to write what was left to write.
                if let Ok(sandbox) = self.running() {
                    sandbox.kill();
                }
                process.ended().await;
                Ok(())
            }
        }
    }

    /// What all containers use together.
    pub(crate) async fn sum_stats(&self) -> Stats {
        let ids: Vec<String> = {
            let state = self.lock();
            let own = state.containers.iter().filter(|(_, own)| !own.is_pod());
            own.map(|(id, _)| id.clone()).collect()
        };
        let mut sum = Stats::default();
        for id in ids {
            let Ok(own) = self.stats(&id).await else {
                continue;
            };
            sum.cpu_usage_usec += own.cpu_usage_usec;
            sum.cpu_user_usec += own.cpu_user_usec;
            sum.cpu_system_usec += own.cpu_system_usec;
            sum.throttled_usec += own.throttled_usec;
            sum.memory_current += own.memory_current;
            sum.memory_inactive_file += own.memory_inactive_file;
            sum.pids_current += own.pids_current;
            sum.io_read_bytes += own.io_read_bytes;
            sum.io_write_bytes += own.io_write_bytes;
            sum.oom_kills += own.oom_kills;
            // The guest's, which every container has.
            sum.interfaces = own.interfaces;
        }
        sum
    }
}

fn sandbox_spec(request: &CreateSandboxRequest) -> Outcome<Spec> {
    let bundle = PathBuf::from(&request.bundle_path);
    if bundle.join("config.json").exists() {
        return bulkhead_bundle::read(&bundle)
            .map_err(|error| Failure::invalid(bulkhead_provision::chain(&error)));
    }
    let options = request.options.as_ref();
    let config = options.filter(|any| any.type_url.ends_with(bulkhead_bundle::POD_CONFIG));
    let config = config.ok_or_else(|| {
        Failure::invalid(format!(
            "the sandbox has neither a spec in `{}` nor a description of the type `{}`",
            bundle.display(),
            bulkhead_bundle::POD_CONFIG
        ))
    })?;
    let (id, network) = (&request.sandbox_id, &request.netns_path);
    Ok(bulkhead_bundle::pod_spec(
        id,
        &config.value,
        network,
        &request.annotations,
    )?)
}

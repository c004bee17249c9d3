//! Further processes.

use std::sync::Arc;

use bulkhead_sandbox::ExecConfig;
use containerd_shim_protos::api::ExecProcessRequest;
use containerd_shim_protos::events::task as event;
use oci_spec::runtime::Process as ProcessSpec;

use super::{Pod, no_process_in_pod};
use crate::events::Event;
use crate::failure::{Failure, Outcome};
use crate::process::{Exit, Process};
use crate::stdio::{self, Paths, Pumps};

impl Pod {
    /// Notes a process that is to be started.
    pub(crate) fn exec(&self, request: ExecProcessRequest) -> Outcome<()> {
        let (id, exec) = (request.id, request.exec_id);
        bulkhead_protocol::name::check(&exec).map_err(|e| Failure::invalid(e.to_string()))?;
        let spec = request.spec.as_ref().map(|any| any.value.as_slice());
        let mut spec: ProcessSpec = serde_json::from_slice(spec.unwrap_or_default())
            .map_err(|error| Failure::invalid(format!("the process of the exec: {error}")))?;
        // Of the host's security modules, which the guest does not have.
        spec.set_apparmor_profile(None);
        spec.set_selinux_label(None);
        let paths = Paths {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let process = Process::new(paths, Some(spec));
        self.with(&id, |container| {
            if container.is_pod() {
                return Err(no_process_in_pod());
            }
            container.add_exec(&exec, process)
        })?;
        self.publish(Event::ExecAdded(event::TaskExecAdded {
            container_id: id,
            exec_id: exec,
            ..Default::default()
        }));
        Ok(())
    }

    pub(super) async fn start_exec(
        self: &Arc<Self>,
        id: &str,
        exec: &str,
        process: &Arc<Process>,
    ) -> Outcome<()> {
        let sandbox = self.running()?;
        let seccomp = self.with(id, |container| Ok(container.seccomp.clone()))?;
        let spec = process.exec.clone();
        let config = ExecConfig {
            id: exec.to_owned(),
            process: spec.ok_or_else(|| Failure::state("this process is the container's first"))?,
            user: String::new(),
            seccomp,
            stdio: process.stdio(),
            archive: None,
        };
        let ends = stdio::open(&process.paths, self.owner(id)).await?;
        let streams = match sandbox.exec(id, config).await {
            Ok(streams) => streams,
            Err(error) => {
                // containerd waits for its end all the same.
                const CANNOT_EXECUTE: u32 = 126;
                self.stopped(id, exec, process, Exit::now(CANNOT_EXECUTE));
                return Err(error.into());
            }
        };
        let pumps = Pumps::start(ends, streams, Arc::clone(&process.close_input));
        process.run();
        self.publish(Event::ExecStarted(event::TaskExecStarted {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
            pid: self.pid(id),
            ..Default::default()
        }));
        self.watch(id, exec, Arc::clone(process), pumps, sandbox);
        Ok(())
    }
}

//! Further processes of a container.

use std::time::Instant;

use bulkhead_protocol::{agent, name};
use oci_spec::runtime;

use super::failure::Failure;
use super::{AgentService, convert, set_size};
use crate::container::Starting;
use crate::process::{Ends, Process};

/// Processes of one container that the host may have started at once.
const PROCESS_LIMIT: usize = 1024;

/// The name of a process that is on its way, until it is there or is not.
struct Reserved<'a> {
    service: &'a AgentService,
    id: &'a str,
    exec: &'a str,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.service.lock().get_mut(self.id) {
            entry.starting.remove(self.exec);
        }
    }
}

impl AgentService {
    /// Runs one. Nobody else waits for it: the container's lock is held while it
    /// begins and again when it is there.
    pub(super) async fn run_exec(
        &self,
        request: agent::ExecRequest,
    ) -> Result<agent::ProcessResponse, Failure> {
        let (id, exec) = (request.container_id.as_str(), request.exec_id.as_str());
        name::check(exec).map_err(Failure::invalid)?;
        let stdio = request.stdio.get_or_default();
        let process: runtime::Process =
            serde_json::from_slice(&request.process).map_err(Failure::invalid)?;
        let streams = self.host_streams(id, exec, stdio).await?;
        let start = Instant::now();
        let (starting, mut ends) = self.begin_exec(&request, &process)?;
        let _name = Reserved {
            service: self,
            id,
            exec,
        };
        let pid = starting.pid().await.map_err(Failure::container)?;
        let exit = self.reaper.watch(pid);
        let terminal = starting.go(pid, &process).await;
        ends.terminal = terminal.map_err(Failure::container)?;
        set_size(&ends.terminal, stdio, Some(&process));
        let started = Process::new(pid, exit, ends, streams).map_err(Failure::internal_from)?;
        self.with(id, |entry| {
            entry.processes.insert(exec.to_owned(), started);
            Ok(convert::process(pid, &[("exec", start.elapsed())]))
        })
    }

    /// Begins a further process, under a name nobody else may take meanwhile.
    fn begin_exec(
        &self,
        request: &agent::ExecRequest,
        process: &runtime::Process,
    ) -> Result<(Starting, Ends), Failure> {
        let exec = request.exec_id.as_str();
        self.with(&request.container_id, |entry| {
            entry
                .processes
                .retain(|name, process| name.is_empty() || !process.is_told());
            if entry.processes.contains_key(exec) || entry.starting.contains(exec) {
                return Err(Failure::exists(exec));
            }
            if entry.processes.len() + entry.starting.len() >= PROCESS_LIMIT {
                return Err(Failure::internal(
                    "the container has too many processes running",
                ));
            }
            let (child, ends) =
                convert::stdio(request.stdio.get_or_default()).map_err(Failure::internal_from)?;
            let user = (!request.user.is_empty()).then_some(request.user.as_str());
            let seccomp = (!request.seccomp.is_empty()).then_some(request.seccomp.as_slice());
            let starting = entry
                .container
                .exec(process, user, seccomp, request.archive.as_ref(), &child)
                .map_err(Failure::container)?;
            entry.starting.insert(exec.to_owned());
            Ok((starting, ends))
        })
    }
}

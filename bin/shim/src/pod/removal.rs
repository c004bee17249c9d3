//! The removal of processes, containers and, with the last, of the machine.

use std::sync::Arc;

use containerd_shim_protos::events::task as event;
use protobuf::MessageField;

use super::{Container, Pod};
use crate::events::Event;
use crate::failure::{Failure, Outcome};
use crate::process::{Exit, Process, Status};

impl Pod {
    /// Forgets a process that has ended; of a container, everything.
    pub(crate) async fn delete(self: &Arc<Self>, id: &str, exec: &str) -> Outcome<Exit> {
        self.settled(id).await;
        let process = self.process(id, exec)?;
        let pid = self.pid(id);
        let exit = match process.status() {
            Status::Stopped(exit) => exit,
            Status::Created if !exec.is_empty() => Exit::now(0),
            Status::Created => self.give_up(id, &process).await?,
            Status::Running => {
                return Err(Failure::state(format!("`{id}` is running: kill it first")));
            }
        };
        if exec.is_empty() {
            self.run_late_hooks(id, "stopped", |hooks| &hooks.stopped)
                .await;
            self.remove_container(id).await?;
        } else {
            self.with(id, |container| {
                container.remove_exec(exec);
                Ok(())
            })?;
        }
        self.publish(Event::Delete(event::TaskDelete {
            container_id: id.to_owned(),
            id: exec.to_owned(),
            pid,
            exit_status: exit.code,
            exited_at: MessageField::some(exit.at.clone()),
            ..Default::default()
        }));
        Ok(exit)
    }

    /// Ends what was never started.
    async fn give_up(&self, id: &str, process: &Arc<Process>) -> Outcome<Exit> {
        const KILL: u32 = 9;
        let is_pod = self.with(id, |container| Ok(container.is_pod()))?;
        if is_pod {
            self.end_machine().await;
        } else {
            match self.signal(id, "", process, KILL, true).await {
                Err(failure) if !failure.is_missing() => return Err(failure),
                _ => {}
            }
        }
        Ok(process.ended().await)
    }

    async fn remove_container(&self, id: &str) -> Outcome<()> {
        let alone = {
            let state = self.lock();
            state.containers.len() == 1
        };
        let (is_pod, has_disks) = self.with(id, |container| {
            Ok((container.is_pod(), container.has_disks()))
        })?;
        let last = is_pod || alone;
        // With the machine everything ends; but file systems of the host's are
        // unmounted first.
        if let Ok(sandbox) = self.running()
            && (!last || has_disks)
        {
            match sandbox.container(id).remove().await {
                // Gone with its machine.
                Ok(()) | Err(bulkhead_sandbox::AgentError::Gone(_)) => {}
                Err(error) if !last => return Err(error.into()),
                Err(error) => tracing::warn!(id, %error, "not removed before its machine"),
            }
        }
        let disks = self.with(id, |container| Ok(container.take_disks()))?;
        for used in disks {
            match self.running() {
                Ok(_) => used.release().await,
                Err(_) => used.forget(),
            }
        }
        if last {
            self.end_machine().await;
        }
        let container = self.lock().containers.remove(id);
        if is_pod {
            self.deleted.send_replace(true);
        }
        for name in container.iter().flat_map(Container::shared) {
            if let Some(share) = self.lock().share.as_mut() {
                share.remove(name);
            }
        }
        Ok(())
    }
}

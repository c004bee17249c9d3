//! A machine that is given more while it runs.

use bulkhead_bundle::{Growth, Room, Size};
use oci_spec::runtime::LinuxResources;

use super::Pod;
use crate::failure::{Failure, Outcome};
use crate::process::Status;

const MIB: u64 = 1 << 20;

impl Pod {
    /// Has the guest take what the limits of the pod's containers come to, should
    /// this one's become what is wanted. What was taken is not given back: pages the
    /// guest does not use are the host's all the same.
    pub(super) async fn grow(&self, id: &str, wanted: &LinuxResources) -> Outcome<()> {
        let Some((before, needed)) = self.needed(id, wanted)? else {
            return Ok(());
        };
        let Some(lacking) = before.lacking(needed) else {
            return Ok(());
        };
        self.refuse_beyond_group(before.filled(needed))?;
        let goal = before.with(lacking).size();
        let started = goal.vcpus - lacking.vcpus;
        let (vcpus, memory) = self.running()?.grow(goal.vcpus, lacking.memory).await?;
        let now = self.note_taken(Size {
            vcpus: vcpus.saturating_sub(started),
            memory,
        });
        match now {
            Some(now) if now.vcpus >= goal.vcpus && now.memory >= goal.memory => Ok(()),
            _ => Err(Failure::state(format!(
                "the guest took {vcpus} vCPUs and {} MiB of {} and {} MiB",
                memory / MIB,
                goal.vcpus,
                lacking.memory / MIB,
            ))),
        }
    }

    /// The machine, and what the limits of its containers come to.
    fn needed(&self, id: &str, wanted: &LinuxResources) -> Outcome<Option<(Growth, Room)>> {
        let own = self.with(id, |container| Ok(container.limits_with(wanted)))?;
        let state = self.lock();
        let others = state.containers.iter().filter(|(other, container)| {
            let ended = matches!(container.main().status(), Status::Stopped(_));
            *other != id && !ended
        });
        let others = others.filter_map(|(_, container)| container.resources());
        let needed = bulkhead_bundle::demand(others.chain([&own]));
        Ok(state.size.map(|size| (size, needed)))
    }

    /// What the guest says it has taken; how large its machine is for it.
    fn note_taken(&self, taken: Size) -> Option<Size> {
        let mut state = self.lock();
        state.size = state.size.map(|size| size.with(taken));
        state.size.map(|size| size.size())
    }

    /// The kernel would end the monitor of a machine that fills more than its group
    /// may have.
    fn refuse_beyond_group(&self, filled: u64) -> Outcome<()> {
        let room = self.place.memory_limit();
        match room.filter(|room| filled > *room) {
            None => Ok(()),
            Some(room) => Err(Failure::state(format!(
                "the limits of the pod's containers come to {} MiB with the machine's overhead, and \
                 its control group may have {} MiB: raise the pod's own limit first, with the \
                 overhead of its RuntimeClass",
                filled / MIB,
                room / MIB
            ))),
        }
    }
}

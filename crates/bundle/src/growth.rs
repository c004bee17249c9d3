//! What a machine has of what it could have.

use bulkhead_config::Config;
use bulkhead_protocol::MEMORY_BLOCK;
use oci_spec::runtime::LinuxResources;

use crate::size::quota;
use crate::{MIB, Room, Size};

/// The kernel describes each page of 4096 bytes in 64.
const PAGES_DESCRIBED: u64 = 64;

/// A machine that can grow: what it was at its start, what it could be given since,
/// and what of that it was given.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    start: Size,
    spare: Size,
    taken: Size,
    /// What the guest's own kernel and agent need, bytes.
    overhead: u64,
    /// What the host needs to run it, bytes.
    beside: u64,
}

impl Growth {
    /// A machine at its start.
    pub fn new(start: Size, spare: Size, config: &Config) -> Self {
        Self {
            start,
            spare,
            taken: Size::default(),
            overhead: config.guest_overhead_mib * MIB,
            beside: config.host_overhead_mib * MIB,
        }
    }

    /// The machine as it is.
    pub fn size(&self) -> Size {
        add(self.start, self.taken)
    }

    /// What the host needs to run it, bytes beside its memory.
    pub fn beside(&self) -> u64 {
        self.beside
    }

    /// What it can be given.
    pub fn spare(&self) -> Size {
        self.spare
    }

    /// What its containers share as it is.
    pub fn room(&self) -> Room {
        self.room_in(self.size())
    }

    /// What they would share of all it can be given.
    pub fn most(&self) -> Room {
        // Pages are described at the cost of those who use them.
        let memory = self.spare.memory - self.spare.memory / PAGES_DESCRIBED;
        let vcpus = self.spare.vcpus;
        self.room_in(add(self.start, Size { vcpus, memory }))
    }

    fn room_in(&self, size: Size) -> Room {
        Room {
            vcpus: size.vcpus,
            memory: size.memory.saturating_sub(self.overhead),
        }
    }

    /// What has to be taken of the spare, all in all, for containers that need so
    /// much, as far as there is so much; none: nothing more than was.
    pub fn lacking(&self, needed: Room) -> Option<Size> {
        let vcpus = needed.vcpus.saturating_sub(self.start.vcpus);
        let memory = needed.memory.saturating_add(self.overhead);
        let memory = memory.saturating_sub(self.start.memory);
        let memory = memory.saturating_add(memory / (PAGES_DESCRIBED - 1));
        let blocks = memory.div_ceil(MEMORY_BLOCK);
        let wanted = Size {
            vcpus: vcpus.min(self.spare.vcpus).max(self.taken.vcpus),
            memory: blocks
                .saturating_mul(MEMORY_BLOCK)
                .min(self.spare.memory)
                .max(self.taken.memory),
        };
        (wanted != self.taken).then_some(wanted)
    }

    /// What containers that need so much fill of the host's memory at most, bytes,
    /// with all there is beside them. Whole blocks are more, which nobody fills.
    pub fn filled(&self, needed: Room) -> u64 {
        needed.memory.min(self.most().memory) + self.overhead + self.beside
    }

    /// The machine when all in all so much was taken, as its guest says.
    #[must_use]
    pub fn with(self, taken: Size) -> Self {
        let taken = Size {
            vcpus: taken.vcpus.max(self.taken.vcpus).min(self.spare.vcpus),
            memory: taken.memory.max(self.taken.memory).min(self.spare.memory),
        };
        Self { taken, ..self }
    }
}

fn add(one: Size, other: Size) -> Size {
    Size {
        vcpus: one.vcpus + other.vcpus,
        memory: one.memory + other.memory,
    }
}

/// What the limits of containers come to; one without a limit takes what is there.
pub fn demand<'a>(limits: impl Iterator<Item = &'a LinuxResources>) -> Room {
    let (mut thousandths, mut memory) = (0u64, 0u64);
    for own in limits {
        let limit = own.memory().as_ref().and_then(|memory| memory.limit());
        let limit = limit.and_then(|bytes| u64::try_from(bytes).ok());
        memory = memory.saturating_add(limit.unwrap_or(0));
        let cpu = own.cpu().as_ref().and_then(quota);
        let cpu = cpu.map_or(0, |(quota, period)| {
            quota.saturating_mul(1000).div_ceil(period)
        });
        thousandths = thousandths.saturating_add(cpu);
    }
    Room {
        vcpus: u32::try_from(thousandths.div_ceil(1000)).unwrap_or(u32::MAX),
        memory,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn size(vcpus: u32, mebibytes: u64) -> Size {
        Size {
            vcpus,
            memory: mebibytes * MIB,
        }
    }

    fn room(vcpus: u32, mebibytes: u64) -> Room {
        Room {
            vcpus,
            memory: mebibytes * MIB,
        }
    }

    fn machine() -> Growth {
        Growth::new(size(1, 164), size(2, 1024), &Config::default())
    }

    #[test]
    fn a_machine_takes_blocks_when_it_lacks_memory() {
        let machine = machine();
        assert_eq!(machine.room(), room(1, 100));
        assert_eq!(machine.lacking(room(1, 100)), None);
        assert_eq!(machine.lacking(room(1, 101)), Some(size(0, 128)));
        // A whole block is less than itself: its pages are described in it.
        assert_eq!(machine.lacking(room(1, 228)), Some(size(0, 256)));
        assert_eq!(machine.lacking(room(2, 0)), Some(size(1, 0)));
        // No more than there is.
        assert_eq!(machine.lacking(room(9, 9000)), Some(size(2, 1024)));
        let grown = machine.with(size(1, 256));
        assert_eq!((grown.size(), grown.room()), (size(2, 420), room(2, 356)));
        assert_eq!(grown.lacking(room(1, 300)), None);
        assert_eq!(grown.most(), machine.most());
        // What a guest says it took is no more than there was.
        let most = machine.with(size(u32::MAX, 1 << 40));
        assert_eq!(most.size(), size(3, 164 + 1024));
        // Nor is anything given back.
        assert_eq!(grown.with(size(0, 128)).size(), grown.size());
        assert_eq!(machine.filled(room(1, 200)), (200 + 64 + 64) * MIB);
    }

    #[test]
    fn limits_of_all_containers_are_what_is_needed() {
        let limits = |memory: i64, quota: i64| -> LinuxResources {
            let value = json!({"memory": {"limit": memory}, "cpu": {"quota": quota}});
            serde_json::from_value(value).unwrap()
        };
        let all = [
            limits(100 << 20, 60_000),
            limits(50 << 20, 60_000),
            limits(-1, -1),
        ];
        assert_eq!(demand(all.iter()), room(2, 150));
        assert_eq!(demand([].iter()), room(0, 0));
    }

    proptest! {
        #[test]
        fn what_is_lacking_is_enough_or_all(vcpus in 0..9u32, memory in 0..20_000u64) {
            let machine = machine();
            let needed = room(vcpus, memory);
            let taken = machine.lacking(needed).unwrap_or(size(0, 0));
            prop_assert!(taken.vcpus <= 2 && taken.memory <= 1024 * MIB);
            let grown = machine.with(taken);
            prop_assert!(grown.room().vcpus >= vcpus.min(3));
            prop_assert!(grown.room().memory >= needed.memory.min(machine.most().memory));
            prop_assert_eq!(grown.lacking(needed), None);
        }

        #[test]
        fn no_limits_panic(limit in any::<i64>(), quota in any::<i64>(), period in any::<u64>()) {
            let value = json!({
                "memory": {"limit": limit}, "cpu": {"quota": quota, "period": period},
            });
            let own: LinuxResources = serde_json::from_value(value).unwrap();
            let _ = machine().lacking(demand([&own, &own].into_iter()));
        }
    }
}

//! New limits of a container that runs.
//!
//! containerd sends all of a spec's resources again with the changed ones among
//! them. What the guest can change is passed on; what it cannot must be what it
//! was, or is refused by name: nothing is ignored.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxResources};
use serde_json::Value;

use crate::Refusal;
use crate::size::{host_vcpus, quota};

/// What the containers of a machine share, beyond which no limit has a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// vCPUs.
    pub vcpus: u32,
    /// Bytes: the machine's without what its own kernel and agent need.
    pub memory: u64,
}

/// The limits to be passed on to the guest, of those that were asked for. `had`
/// are those the container has; `room` is all the machine can give.
///
/// # Errors
/// What cannot be changed while the container runs, and what its machine cannot
/// give.
pub fn update(
    wanted: &LinuxResources,
    had: Option<&LinuxResources>,
    room: Room,
) -> Result<LinuxResources, Refusal> {
    let none = LinuxResources::default();
    let had = had.unwrap_or(&none);
    refuse_fixed(wanted, had)?;
    if let Some(limit) = wanted.memory().as_ref().and_then(|own| own.limit()) {
        refuse_memory(limit, room)?;
    }
    if let Some(cpu) = wanted.cpu() {
        refuse_cpu(cpu, room)?;
    }
    let mut passed = LinuxResources::default();
    passed.set_cpu(wanted.cpu().clone());
    passed.set_memory(*wanted.memory());
    passed.set_pids(*wanted.pids());
    passed.set_hugepage_limits(wanted.hugepage_limits().clone());
    passed.set_unified(wanted.unified().clone());
    passed.set_block_io(weight(wanted.block_io().as_ref()));
    Ok(passed)
}

/// The one setting of block devices that names none of the host's.
fn weight(io: Option<&LinuxBlockIo>) -> Option<LinuxBlockIo> {
    let mut passed = LinuxBlockIo::default();
    passed.set_weight(Some(io?.weight()?));
    Some(passed)
}

/// Settings the guest cannot change while a container runs. Those of block
/// devices name the host's.
const FIXED: [&str; 15] = [
    "devices",
    "network",
    "rdma",
    "memory.kernel",
    "memory.kernelTCP",
    "memory.swappiness",
    "memory.disableOOMKiller",
    "cpu.realtimeRuntime",
    "cpu.realtimePeriod",
    "blockIO.leafWeight",
    "blockIO.weightDevice",
    "blockIO.throttleReadBpsDevice",
    "blockIO.throttleWriteBpsDevice",
    "blockIO.throttleReadIOPSDevice",
    "blockIO.throttleWriteIOPSDevice",
];

fn refuse_fixed(wanted: &LinuxResources, had: &LinuxResources) -> Result<(), Refusal> {
    let value = |own: &LinuxResources| {
        serde_json::to_value(own).map_err(|error| Refusal::new(format!("the new limits: {error}")))
    };
    let (wanted, had) = (value(wanted)?, value(had)?);
    let changed = |name: &&str| {
        let path = format!("/{}", name.replace('.', "/"));
        let wanted = wanted.pointer(&path).filter(|own| !is_nothing(own));
        wanted.is_some() && wanted != had.pointer(&path)
    };
    let names: Vec<_> = FIXED.into_iter().filter(changed).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Refusal::new(format!(
        "`{}` of a container that runs cannot be changed; make the container anew with it",
        names.join("`, `")
    )))
}

/// What nobody asked for. A swappiness of 0 is what a guest without swap has.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_nothing),
        Value::Bool(true) | Value::String(_) => false,
    }
}

fn refuse_memory(limit: i64, room: Room) -> Result<(), Refusal> {
    if u64::try_from(limit).is_ok_and(|limit| limit > room.memory) {
        return Err(Refusal::new(format!(
            "a memory limit of {limit} bytes is more than the pod's machine can have for containers \
             ({} bytes), beyond which it cannot grow while it runs; make the pod anew with the \
             larger limit",
            room.memory
        )));
    }
    Ok(())
}

/// A machine with as many vCPUs as its host has CPUs gives what its host does.
fn refuse_cpu(cpu: &LinuxCpu, room: Room) -> Result<(), Refusal> {
    let Some((quota, period)) = quota(cpu) else {
        return Ok(());
    };
    let wanted = quota.div_ceil(period);
    let host = host_vcpus();
    if wanted.min(host) > u64::from(room.vcpus) {
        return Err(Refusal::new(format!(
            "a CPU limit of {quota} µs in {period} µs needs {} vCPUs, and the pod's machine can have {} \
             while it runs; make the pod anew with the larger limit",
            wanted.min(host),
            room.vcpus
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::MIB;

    const ROOM: Room = Room {
        vcpus: 1,
        memory: 448 * MIB,
    };

    fn resources(value: Value) -> LinuxResources {
        serde_json::from_value(value).unwrap()
    }

    fn refused(wanted: Value) -> String {
        let refusal = update(&resources(wanted), None, ROOM).unwrap_err();
        refusal.to_string()
    }

    #[test]
    fn what_the_guest_can_change_is_passed_on() {
        let wanted = resources(json!({
            "memory": {"limit": 64 << 20, "swap": 64 << 20},
            "cpu": {"quota": 50_000, "period": 100_000, "shares": 512},
            "pids": {"limit": 20},
            "unified": {"memory.high": "1000000"},
            "blockIO": {"weight": 100},
        }));
        assert_eq!(update(&wanted, None, ROOM).unwrap(), wanted);
        // No limit at all is all of the machine.
        let all = resources(json!({"memory": {"limit": -1}, "cpu": {"quota": -1}}));
        assert_eq!(update(&all, None, ROOM).unwrap(), all);
    }

    #[test]
    fn what_is_sent_again_as_it_was_is_no_change() {
        let had = resources(json!({
            "devices": [{"allow": false, "access": "rwm"}],
            "memory": {"swappiness": 10, "limit": 1 << 20},
        }));
        let mut wanted = had.clone();
        let more = json!({"memory": {"swappiness": 10, "limit": 2 << 20}});
        wanted.set_memory(*resources(more).memory());
        let passed = update(&wanted, Some(&had), ROOM).unwrap();
        assert_eq!(passed.devices(), &None);
        assert_eq!(passed.memory().unwrap().limit(), Some(2 << 20));
    }

    #[test]
    fn what_cannot_be_changed_is_refused_by_its_name() {
        for (name, value) in [
            (
                "devices",
                json!({"devices": [{"allow": true, "access": "rwm"}]}),
            ),
            ("network", json!({"network": {"classID": 1}})),
            ("rdma", json!({"rdma": {"mlx5_1": {"hcaHandles": 3}}})),
            ("memory.kernel", json!({"memory": {"kernel": 1 << 20}})),
            ("memory.swappiness", json!({"memory": {"swappiness": 1}})),
            (
                "cpu.realtimeRuntime",
                json!({"cpu": {"realtimeRuntime": 5}}),
            ),
            (
                "blockIO.throttleReadBpsDevice",
                json!({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]}}),
            ),
        ] {
            let text = refused(value);
            assert!(text.starts_with(&format!("`{name}`")), "{text}");
        }
    }

    #[test]
    fn what_the_machine_has_not_is_refused() {
        let memory = refused(json!({"memory": {"limit": 449 << 20}}));
        assert!(memory.contains("cannot grow"), "{memory}");
        assert!(refuse_memory(448 << 20, ROOM).is_ok());
        let two = resources(json!({"cpu": {"quota": 110_000, "period": 100_000}}));
        let several = std::thread::available_parallelism().unwrap().get() > 1;
        // More than the host has would be no more in any machine.
        assert_eq!(update(&two, None, ROOM).is_err(), several);
    }

    proptest! {
        #[test]
        fn no_figures_panic(limit in any::<i64>(), quota in any::<i64>(), period in any::<u64>()) {
            let wanted = json!({
                "memory": {"limit": limit}, "cpu": {"quota": quota, "period": period},
            });
            let _ = update(&resources(wanted), None, ROOM);
        }
    }
}

//! How large a pod's machine is.

use bulkhead_config::Config;
use bulkhead_protocol::MEMORY_BLOCK;
use oci_spec::runtime::{LinuxCpu, Spec};
use serde::Deserialize;

use crate::annotation::{
    NEW_SANDBOX_RESOURCES, SANDBOX_MEMORY, SANDBOX_PERIOD, SANDBOX_QUOTA, SANDBOX_RESOURCES,
    annotation,
};
use crate::{MIB, Refusal};

/// What the smallest machine has for its containers, MiB.
const LEAST_ROOM_MIB: u64 = 64;

/// How large the machine is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// vCPUs.
    pub vcpus: u32,
    /// Bytes, a multiple of 1 MiB.
    pub memory: u64,
}

/// The pod's own limits.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Bytes.
    memory: Option<u64>,
    /// vCPUs that it can fill.
    vcpus: Option<u64>,
}

/// `LinuxContainerResources` of the CRI, as CRI-O writes it: what is 0 is left out.
/// k8s.io/cri-api/pkg/apis/runtime/v1/api.proto.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Promised {
    cpu_period: i64,
    cpu_quota: i64,
    memory_limit_in_bytes: i64,
}

impl Promised {
    fn of(spec: &Spec) -> Self {
        // CRI-O's own precedence.
        let text = annotation(spec, NEW_SANDBOX_RESOURCES);
        let text = text.or_else(|| annotation(spec, SANDBOX_RESOURCES));
        text.and_then(|text| serde_json::from_str::<Option<Self>>(text).ok()?)
            .unwrap_or_default()
    }
}

impl Limits {
    /// What CRI-O tells may be the author's: of memory it counts only where the pod's
    /// control group has a limit (`bounded`), which it then cannot pass.
    fn of(spec: &Spec, bounded: bool) -> Self {
        let told = Promised::of(spec);
        let number = |fact| annotation(spec, fact).and_then(|text| text.parse::<i64>().ok());
        let resources = spec.linux().as_ref().and_then(|l| l.resources().as_ref());
        let memory = resources.and_then(|r| r.memory().as_ref());
        let cpu = resources.and_then(|r| r.cpu().as_ref());
        let first = |all: [Option<i64>; 3]| {
            let mut limits = all.into_iter().flatten().filter(|own| *own > 0);
            limits.next().map(i64::unsigned_abs)
        };
        let memory = first([
            number(SANDBOX_MEMORY),
            bounded.then_some(told.memory_limit_in_bytes),
            memory.and_then(|memory| memory.limit()),
        ]);
        let quota = first([
            number(SANDBOX_QUOTA),
            Some(told.cpu_quota),
            cpu.and_then(|cpu| cpu.quota()),
        ]);
        let period = first([
            number(SANDBOX_PERIOD),
            Some(told.cpu_period),
            cpu.and_then(|cpu| cpu.period()).map(u64::cast_signed),
        ]);
        let period = period.unwrap_or(PERIOD);
        Self {
            memory,
            vcpus: quota.map(|quota| quota.div_ceil(period)),
        }
    }
}

/// Of how many µs a quota is, where nobody says: the kernel's own period.
const PERIOD: u64 = 100_000;

/// A CPU limit: a quota, and the period it is of, µs. None: no limit.
pub(crate) fn quota(cpu: &LinuxCpu) -> Option<(u64, u64)> {
    let quota = u64::try_from(cpu.quota()?).ok()?;
    let period = cpu.period().filter(|period| *period > 0);
    Some((quota, period.unwrap_or(PERIOD)))
}

/// More vCPUs than the host has CPUs would only wait for each other.
pub(crate) fn host_vcpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u64)
}

/// The size the pod's limits ask for: its memory limit and what the guest
/// itself needs; as many vCPUs as its CPU limit can fill. Never more memory
/// than the pod's control group has `room` for, bytes, beside what the host
/// needs to run the machine: the monitor would be killed for it.
///
/// # Errors
/// When the room is too small for any machine.
pub fn size(spec: &Spec, config: &Config, room: Option<u64>) -> Result<Size, Refusal> {
    let limits = Limits::of(spec, room.is_some());
    let memory = match limits.memory {
        Some(bytes) => bytes.div_ceil(MIB) + config.guest_overhead_mib,
        None => config.memory_mib,
    };
    let vcpus = match limits.vcpus {
        Some(vcpus) => vcpus.clamp(1, host_vcpus()) as u32,
        None => config.vcpus,
    };
    let least = config.guest_overhead_mib + LEAST_ROOM_MIB;
    let room = room.map(|bytes| (bytes / MIB).saturating_sub(config.host_overhead_mib));
    if let Some(room) = room.filter(|room| *room < least) {
        return Err(Refusal::new(format!(
            "the pod's control group leaves {room} MiB for the machine, which needs {least}: \
             raise the pod's memory limit, or let the RuntimeClass declare the overhead of {} MiB",
            config.overhead_mib()
        )));
    }
    Ok(Size {
        vcpus,
        memory: memory.max(least).min(room.unwrap_or(u64::MAX)) * MIB,
    })
}

/// What a machine of this size can be given later. Of memory nothing, unless the
/// pod's control group has a limit (`bounded`): the size of the machine is what
/// bounds the others, and a hostile guest need not leave alone what is spare.
pub fn spare(spec: &Spec, config: &Config, size: Size, bounded: bool) -> Size {
    let limits = Limits::of(spec, bounded);
    let more = host_vcpus().saturating_sub(size.vcpus.into()) as u32;
    let memory = config.grow_memory_mib * MIB;
    Size {
        vcpus: limits.vcpus.map_or(0, |_| config.grow_vcpus.min(more)),
        memory: match bounded && limits.memory.is_some() {
            true => memory - memory % MEMORY_BLOCK,
            false => 0,
        },
    }
}

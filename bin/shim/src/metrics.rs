//! Statistics in the form containerd and its CRI plugin know.

use bulkhead_sandbox::Stats;
use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, NetworkStat, PidsStat,
};
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;

/// The guest has cgroup v2, whatever its host has.
const TYPE_URL: &str = "io.containerd.cgroups.v2.Metrics";

/// A container's statistics as containerd takes them.
pub(crate) fn any(stats: &Stats) -> protobuf::Result<Any> {
    use protobuf::Message;
    Ok(Any {
        type_url: TYPE_URL.to_owned(),
        value: metrics(stats).write_to_bytes()?,
        ..Default::default()
    })
}

fn metrics(stats: &Stats) -> Metrics {
    // The kernel's word for no limit.
    let limit = |bytes: u64| if bytes == 0 { u64::MAX } else { bytes };
    let network = stats.interfaces.iter().map(|own| NetworkStat {
        name: own.name.clone(),
        rx_bytes: own.rx_bytes,
        rx_packets: own.rx_packets,
        tx_bytes: own.tx_bytes,
        tx_packets: own.tx_packets,
        ..Default::default()
    });
    Metrics {
        pids: MessageField::some(PidsStat {
            current: stats.pids_current,
            limit: stats.pids_limit,
            ..Default::default()
        }),
        cpu: MessageField::some(CPUStat {
            usage_usec: stats.cpu_usage_usec,
            user_usec: stats.cpu_user_usec,
            system_usec: stats.cpu_system_usec,
            throttled_usec: stats.throttled_usec,
            ..Default::default()
        }),
        memory: MessageField::some(MemoryStat {
            usage: stats.memory_current,
            usage_limit: limit(stats.memory_limit),
            max_usage: stats.memory_peak,
            inactive_file: stats.memory_inactive_file,
            ..Default::default()
        }),
        memory_events: MessageField::some(MemoryEvents {
            oom_kill: stats.oom_kills,
            ..Default::default()
        }),
        io: MessageField::some(IOStat {
            usage: vec![IOEntry {
                rbytes: stats.io_read_bytes,
                wbytes: stats.io_write_bytes,
                ..Default::default()
            }],
            ..Default::default()
        }),
        network: network.collect(),
        ..Default::default()
    }
}

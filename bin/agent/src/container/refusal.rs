//! What a spec may ask and this guest cannot give: refused by name, before
//! anything is made. A field that is neither applied nor here would be ignored
//! in silence; docs/reference/oci-spec.md lists them all.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNamespaceType, LinuxNetwork, LinuxResources,
    LinuxSchedulerPolicy, Process, Spec,
};

use super::error::{Error, Result};

/// A field, whether it is asked for, and why it cannot be had.
type Field = (&'static str, bool, &'static str);

const CGROUP_1: &str = "only control groups of version 1 have it, and the guest's are of version 2";
const OTHER_SYSTEM: &str = "it is for another system than Linux";
const NO_MODULE: &str = "the guest kernel has no such security module";
const HOSTS: &str = "it is of the host, which a container with a kernel of its own does not reach";

/// Refuses what of a container's spec cannot be had.
pub(super) fn container(spec: &Spec) -> Result<()> {
    let (Some(linux), Some(own)) = (spec.linux().as_ref(), spec.process().as_ref()) else {
        return Err(Error::invalid(
            "the spec has no `linux` or no `process` part",
        ));
    };
    first(&outside(spec))?;
    process(own)?;
    let user_namespace = linux.namespaces().iter().flatten();
    let user_namespace = user_namespace
        .map(|own| own.typ())
        .any(|kind| kind == LinuxNamespaceType::User);
    let mapped = given(linux.uid_mappings()) || given(linux.gid_mappings());
    let flags = linux.personality().as_ref();
    let flags = flags.is_some_and(|personality| given(personality.flags()));
    first(&[
        (
            "linux.uidMappings",
            mapped && !user_namespace,
            "it needs a user namespace",
        ),
        (
            "linux.netDevices",
            linux
                .net_devices()
                .as_ref()
                .is_some_and(|all| !all.is_empty()),
            HOSTS,
        ),
        ("linux.mountLabel", text(linux.mount_label()), NO_MODULE),
        (
            "linux.intelRdt",
            linux.intel_rdt().is_some(),
            "cache and bandwidth are divided by the host's processors",
        ),
        (
            "linux.memoryPolicy",
            linux.memory_policy().is_some(),
            "the guest has one memory node",
        ),
        (
            "linux.personality.flags",
            flags,
            "the specification defines none",
        ),
        (
            "linux.timeOffsets",
            linux
                .time_offsets()
                .as_ref()
                .is_some_and(|all| !all.is_empty()),
            "a time namespace is not supported yet",
        ),
    ])?;
    match linux.resources() {
        Some(wanted) => resources(wanted),
        None => Ok(()),
    }
}

/// What stands beside `process` and `linux`.
fn outside(spec: &Spec) -> Vec<Field> {
    let mounts = spec.mounts().iter().flatten();
    let mapped = |mount: &oci_spec::runtime::Mount| {
        given(mount.uid_mappings()) || given(mount.gid_mappings())
    };
    let hooks = spec.hooks().as_ref().is_some_and(|hooks| {
        let later = [
            hooks.create_runtime(),
            hooks.create_container(),
            hooks.start_container(),
            hooks.poststart(),
            hooks.poststop(),
        ];
        let first = hooks.prestart();
        given(first) || later.into_iter().any(given)
    });
    vec![
        ("hooks", hooks, "they run beside a container on its host"),
        (
            "mounts.uidMappings",
            mounts.clone().any(mapped),
            "id-mapped mounts are not supported yet",
        ),
        ("solaris", spec.solaris().is_some(), OTHER_SYSTEM),
        ("windows", spec.windows().is_some(), OTHER_SYSTEM),
        ("zos", spec.zos().is_some(), OTHER_SYSTEM),
        (
            "vm",
            spec.vm().is_some(),
            "the machine is made before the container",
        ),
    ]
}

/// Refuses what of a process cannot be had, its container's first or not.
pub(super) fn process(process: &Process) -> Result<()> {
    let scheduler = process.scheduler().as_ref();
    let iso = scheduler.is_some_and(|own| *own.policy() == LinuxSchedulerPolicy::SchedIso);
    first(&[
        (
            "process.apparmorProfile",
            text(process.apparmor_profile()),
            NO_MODULE,
        ),
        (
            "process.selinuxLabel",
            text(process.selinux_label()),
            NO_MODULE,
        ),
        (
            "process.commandLine",
            text(process.command_line()),
            OTHER_SYSTEM,
        ),
        (
            "process.user.username",
            text(process.user().username()),
            OTHER_SYSTEM,
        ),
        ("process.scheduler.policy", iso, "Linux has no SCHED_ISO"),
    ])
}

/// Refuses what of limits no control group of the guest knows.
pub(super) fn resources(wanted: &LinuxResources) -> Result<()> {
    wanted.memory().as_ref().map_or(Ok(()), memory)?;
    wanted.cpu().as_ref().map_or(Ok(()), cpu)?;
    wanted.block_io().as_ref().map_or(Ok(()), block_io)?;
    wanted.network().as_ref().map_or(Ok(()), network)
}

fn memory(memory: &LinuxMemory) -> Result<()> {
    let set = |value: Option<i64>| value.is_some_and(|value| value != 0);
    first(&[
        ("memory.kernel", set(memory.kernel()), CGROUP_1),
        ("memory.kernelTCP", set(memory.kernel_tcp()), CGROUP_1),
        ("memory.swappiness", memory.swappiness().is_some(), CGROUP_1),
        (
            "memory.disableOOMKiller",
            memory.disable_oom_killer() == Some(true),
            CGROUP_1,
        ),
        (
            "memory.useHierarchy",
            memory.use_hierarchy() == Some(false),
            CGROUP_1,
        ),
    ])
}

fn cpu(cpu: &LinuxCpu) -> Result<()> {
    let time = cpu.realtime_runtime().is_some_and(|value| value != 0);
    let period = cpu.realtime_period().is_some_and(|value| value != 0);
    first(&[
        ("cpu.realtimeRuntime", time, CGROUP_1),
        ("cpu.realtimePeriod", period, CGROUP_1),
    ])
}

fn block_io(io: &LinuxBlockIo) -> Result<()> {
    let set = |weight: Option<u16>| weight.is_some_and(|weight| weight != 0);
    let devices = io.weight_device().iter().flatten();
    let leaf = devices.map(|device| device.leaf_weight()).any(set);
    first(&[
        ("blockIO.leafWeight", set(io.leaf_weight()), CGROUP_1),
        ("blockIO.weightDevice.leafWeight", leaf, CGROUP_1),
    ])
}

fn network(network: &LinuxNetwork) -> Result<()> {
    let class = network.class_id().is_some_and(|class| class != 0);
    first(&[
        ("network.classID", class, CGROUP_1),
        ("network.priorities", given(network.priorities()), CGROUP_1),
    ])
}

fn first(fields: &[Field]) -> Result<()> {
    match fields.iter().find(|(_, asked, _)| *asked) {
        Some((name, _, reason)) => Err(Error::invalid(format!(
            "the spec's `{name}` cannot be had: {reason}"
        ))),
        None => Ok(()),
    }
}

fn given<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

fn text(word: &Option<String>) -> bool {
    word.as_ref().is_some_and(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn bare() -> Value {
        json!({
            "ociVersion": "1.2.0",
            "process": {"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}},
            "linux": {"namespaces": [{"type": "mount"}]},
        })
    }

    /// A bare spec with a value at a path of keys.
    fn with(path: &str, value: Value) -> Spec {
        let mut whole = bare();
        let mut at = &mut whole;
        for key in path.split('.') {
            at = &mut at[key];
        }
        *at = value;
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn a_bare_spec_is_taken() {
        container(&serde_json::from_value(bare()).unwrap()).unwrap();
    }

    #[test]
    fn every_field_that_cannot_be_had_is_refused_by_its_name() {
        let hook = json!([{"path": "/bin/true"}]);
        let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        let cases = [
            ("hooks.prestart", hook.clone(), "hooks"),
            ("hooks.createRuntime", hook.clone(), "hooks"),
            ("hooks.createContainer", hook.clone(), "hooks"),
            ("hooks.startContainer", hook.clone(), "hooks"),
            ("hooks.poststart", hook.clone(), "hooks"),
            ("hooks.poststop", hook, "hooks"),
            (
                "mounts",
                json!([{"destination": "/a", "uidMappings": map}]),
                "mounts.uidMappings",
            ),
            (
                "mounts",
                json!([{"destination": "/a", "gidMappings": map}]),
                "mounts.uidMappings",
            ),
            ("solaris", json!({}), "solaris"),
            ("windows", json!({"layerFolders": ["x"]}), "windows"),
            ("zos", json!({}), "zos"),
            ("vm", json!({"kernel": {"path": "/k"}}), "vm"),
            (
                "process.apparmorProfile",
                json!("p"),
                "process.apparmorProfile",
            ),
            ("process.selinuxLabel", json!("l"), "process.selinuxLabel"),
            ("process.commandLine", json!("dir"), "process.commandLine"),
            (
                "process.user.username",
                json!("me"),
                "process.user.username",
            ),
            (
                "process.scheduler",
                json!({"policy": "SCHED_ISO"}),
                "process.scheduler.policy",
            ),
            ("linux.uidMappings", map.clone(), "linux.uidMappings"),
            ("linux.gidMappings", map, "linux.uidMappings"),
            ("linux.netDevices", json!({"eth0": {}}), "linux.netDevices"),
            ("linux.mountLabel", json!("l"), "linux.mountLabel"),
            ("linux.intelRdt", json!({"closID": "a"}), "linux.intelRdt"),
            (
                "linux.memoryPolicy",
                json!({"mode": "MPOL_BIND", "nodes": "0"}),
                "linux.memoryPolicy",
            ),
            (
                "linux.personality",
                json!({"domain": "LINUX", "flags": ["F"]}),
                "linux.personality.flags",
            ),
            (
                "linux.timeOffsets",
                json!({"monotonic": {"secs": 1}}),
                "linux.timeOffsets",
            ),
            (
                "linux.resources.memory",
                json!({"kernel": 1}),
                "memory.kernel",
            ),
            (
                "linux.resources.memory",
                json!({"kernelTCP": 1}),
                "memory.kernelTCP",
            ),
            (
                "linux.resources.memory",
                json!({"swappiness": 0}),
                "memory.swappiness",
            ),
            (
                "linux.resources.memory",
                json!({"disableOOMKiller": true}),
                "memory.disableOOMKiller",
            ),
            (
                "linux.resources.memory",
                json!({"useHierarchy": false}),
                "memory.useHierarchy",
            ),
            (
                "linux.resources.cpu",
                json!({"realtimeRuntime": 1}),
                "cpu.realtimeRuntime",
            ),
            (
                "linux.resources.cpu",
                json!({"realtimePeriod": 1}),
                "cpu.realtimePeriod",
            ),
            (
                "linux.resources.blockIO",
                json!({"leafWeight": 10}),
                "blockIO.leafWeight",
            ),
            (
                "linux.resources.blockIO",
                json!({"weightDevice": [{"major": 254, "minor": 0, "leafWeight": 10}]}),
                "blockIO.weightDevice.leafWeight",
            ),
            (
                "linux.resources.network",
                json!({"classID": 1}),
                "network.classID",
            ),
            (
                "linux.resources.network",
                json!({"priorities": [{"name": "eth0", "priority": 1}]}),
                "network.priorities",
            ),
        ];
        let table = include_str!("../../../../docs/reference/oci-spec.md");
        for (path, value, name) in cases {
            let refused = container(&with(path, value.clone()));
            let text = refused.map_or_else(|error| error.to_string(), |()| "taken".to_owned());
            assert!(
                text.contains(&format!("`{name}`")),
                "{path} {value}: {text}"
            );
            assert!(table.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn what_engines_write_for_nothing_asked_is_taken() {
        for (path, value) in [
            (
                "linux.resources.memory",
                json!({"disableOOMKiller": false, "kernel": 0}),
            ),
            ("linux.resources.memory", json!({"useHierarchy": true})),
            (
                "linux.resources.cpu",
                json!({"realtimeRuntime": 0, "realtimePeriod": 0}),
            ),
            ("linux.resources.blockIO", json!({"leafWeight": 0})),
            ("process.apparmorProfile", json!("")),
            ("hooks", json!({})),
        ] {
            container(&with(path, value.clone())).unwrap_or_else(|e| panic!("{path} {value}: {e}"));
        }
    }
}

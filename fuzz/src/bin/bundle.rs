//! A container's spec, as a tenant's pod shaped it: what the guest is told has
//! no path of the host's namespaces in it and no block device that is not a
//! disk, and a machine is never larger than its control group has room for.
#![no_main]

use std::collections::HashMap;

use bulkhead_bundle::{BlockDevice, Hook, Told};
use bulkhead_config::Config;
use oci_spec::runtime::{LinuxDeviceType, Spec};

const ROOM: u64 = 1 << 30;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(spec) = serde_json::from_slice::<Spec>(bytes) else {
        return;
    };
    let _ = bulkhead_bundle::kind(&spec);
    let _ = bulkhead_bundle::kubernetes(&spec);
    let _ = bulkhead_bundle::refuse_host(&spec);
    if let Ok(size) = bulkhead_bundle::size(&spec, &Config::default(), Some(ROOM)) {
        assert!(size.memory < ROOM && size.vcpus > 0);
    }
    let _ = bulkhead_bundle::size(&spec, &Config::default(), None);
    let mut alone = spec.clone();
    if let Ok(hooks) = bulkhead_bundle::take_hooks(&mut alone) {
        assert!(alone.hooks().is_none());
        let all = [hooks.create, hooks.started, hooks.stopped].concat();
        let fits = |hook: &Hook| hook.path.is_absolute() && !hook.patience.is_zero();
        assert!(all.iter().all(fits));
    }
    bulkhead_bundle::set_network(&mut alone, "/run/netns/own".into());
    let told = Told {
        pod: 7,
        containers: [(8, "app".to_owned())].into(),
    };
    if let Ok(adapted) = bulkhead_bundle::adapt(spec, &HashMap::new(), &told) {
        let linux = adapted.spec.linux().clone().unwrap_or_default();
        for device in linux.devices().iter().flatten() {
            let known = |disk: &BlockDevice| {
                (i64::from(disk.major), i64::from(disk.minor)) == (device.major(), device.minor())
            };
            let is_block = device.typ() == LinuxDeviceType::B;
            assert!(!is_block || adapted.disks.iter().any(known));
        }
        for namespace in linux.namespaces().iter().flatten() {
            let path = namespace.path().as_ref();
            assert!(path.is_none_or(|path| path.starts_with("/run/sandbox")));
        }
        assert!(adapted.spec.hooks().is_none() || adapted.spec.annotations().is_none());
    }
});

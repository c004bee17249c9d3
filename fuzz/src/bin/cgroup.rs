//! The path of a control group: it stays below the root of its hierarchy.
#![no_main]

use std::path::Component;

use bulkhead_sys::cgroup::Cgroup;

libfuzzer_sys::fuzz_target!(|path: &str| {
    if let Ok(group) = Cgroup::of(path) {
        let mut parts = group.path().components();
        assert!(parts.all(|part| matches!(part, Component::Normal(_))));
    }
});

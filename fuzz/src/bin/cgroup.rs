//! The path of a control group: it stays below the root of its hierarchy.
#![no_main]

use bulkhead_sys::cgroup::Cgroup;

libfuzzer_sys::fuzz_target!(|path: &str| {
    if let Ok(group) = Cgroup::of(path) {
        let text = format!("{group:?}");
        assert!(!text.contains("/../") && !text.contains("\"../"));
    }
});

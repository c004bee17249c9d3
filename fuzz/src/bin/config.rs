//! Annotations of a tenant's pod: what nobody allowed is never set.
#![no_main]

use std::collections::HashMap;

use bulkhead_config::{Config, PREFIX};

libfuzzer_sys::fuzz_target!(|pairs: Vec<(String, String)>| {
    let config = Config {
        annotations: vec!["vcpus".to_owned()],
        ..Config::default()
    };
    let annotations: HashMap<_, _> = pairs
        .into_iter()
        .map(|(name, value)| (format!("{PREFIX}{name}"), value))
        .collect();
    if let Ok(mut set) = config.clone().with_annotations(&annotations) {
        assert!((1..=255).contains(&set.vcpus));
        set.vcpus = config.vcpus;
        assert_eq!(set, config);
    }
});

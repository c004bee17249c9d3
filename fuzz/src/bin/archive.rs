//! A guest's answer to `cp`: nothing may be written beside the target.
#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(dir) = tempfile::tempdir() else { return };
    let target = dir.path().join("target");
    let _ = std::fs::create_dir(&target);
    let _ = bulkhead_archive::unpack(bytes, &target, Path::new("x"), false);
    let beside = std::fs::read_dir(dir.path()).map_or(0, Iterator::count);
    assert_eq!(beside, 1, "something was written beside the target");
});

//! An archive read back from the cache.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = bulkhead_guest::cpio::entries(bytes);
    let _ = bulkhead_guest::pvh_entry(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = bulkhead_guest::kconfig::parse(text);
    }
});

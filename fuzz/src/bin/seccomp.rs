//! A seccomp profile from a file a tenant may have written.
#![no_main]

use bulkhead_seccomp::{Profile, compile};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(profile) = Profile::parse(bytes)
        && let Ok(filter) = profile.resolve(&[])
    {
        let _ = compile(&filter);
    }
});

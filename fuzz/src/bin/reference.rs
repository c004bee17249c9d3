//! An image's name, as typed or as a pod says it.
#![no_main]

use bulkhead_image::ImageRef;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(parsed) = text.parse::<ImageRef>() {
        assert_eq!(parsed.to_string().parse::<ImageRef>().ok(), Some(parsed));
    }
});

//! A file server's order.
#![no_main]

use bulkhead_share::Order;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(order) = Order::read(bytes) {
        let text = order.to_bytes().unwrap_or_default();
        assert_eq!(Order::read(&text[..]).ok(), Some(order));
    }
});

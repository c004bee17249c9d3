//! The first bytes of a stream.
#![no_main]

use bulkhead_protocol::stream::Header;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut stream = bytes;
    if let Some(Ok(header)) = futures::FutureExt::now_or_never(Header::read(&mut stream)) {
        let mut again = &header.encode()[..];
        let read = futures::FutureExt::now_or_never(Header::read(&mut again));
        assert!(matches!(read, Some(Ok(same)) if same == header));
    }
});

//! Datagrams on a stream.
#![no_main]

use bulkhead_protocol::datagram::Datagram;
use futures::FutureExt;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut stream = bytes;
    while let Some(Ok(datagram)) = Datagram::read(&mut stream).now_or_never() {
        let mut again = Vec::new();
        assert!(datagram.write(&mut again).now_or_never().is_some_and(|done| done.is_ok()));
        let read = Datagram::read(&mut again.as_slice()).now_or_never();
        assert!(matches!(read, Some(Ok(same)) if same == datagram));
    }
});

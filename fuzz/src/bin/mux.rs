//! What a guest writes to the channel, and what the host makes of it.
#![no_main]

use bulkhead_protocol::mux::Opener;
use tokio::io::AsyncWriteExt;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else {
        return;
    };
    runtime.block_on(async {
        let (ours, mut guests) = tokio::io::duplex(1 << 16);
        let (opener, drive) = Opener::drive(ours);
        let drive = tokio::spawn(drive);
        let open = tokio::spawn(async move { opener.open().await.map(|_| ()) });
        let bytes = bytes.to_vec();
        let _ = guests.write_all(&bytes).await;
        drop(guests);
        let _ = drive.await;
        open.abort();
    });
});

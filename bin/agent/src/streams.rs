//! Stdio streams the host opened, until the process they are for takes them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bulkhead_protocol::mux::Stream;
use bulkhead_protocol::stream::Header;
use tokio::sync::Notify;

/// Streams waiting at most; the host opens three for each process.
const WAITING_LIMIT: usize = 1024;

/// A stream announced in a call follows it at once.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);

/// The waiting streams. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Streams {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    // Held for a map operation only.
    waiting: Mutex<HashMap<Header, Stream>>,
    arrived: Notify,
}

impl Streams {
    /// A stream came in.
    pub(crate) fn offer(&self, header: Header, stream: Stream) {
        let mut waiting = self.lock();
        if waiting.len() < WAITING_LIMIT {
            waiting.insert(header, stream);
        }
        drop(waiting);
        self.inner.arrived.notify_waiters();
    }

    /// Takes a stream, waiting for it if the call was faster than it.
    pub(crate) async fn take(&self, header: &Header) -> Option<Stream> {
        let arrival = async {
            loop {
                let arrived = self.inner.arrived.notified();
                if let Some(stream) = self.lock().remove(header) {
                    return stream;
                }
                arrived.await;
            }
        };
        tokio::time::timeout(ARRIVAL_TIMEOUT, arrival).await.ok()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Header, Stream>> {
        self.inner
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

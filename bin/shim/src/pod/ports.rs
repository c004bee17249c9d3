//! Port forwarding: connections made to `localhost` in the pod's network
//! namespace, carried on to the guest's loopback interface.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bulkhead_provision::network::Loopback;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use super::Pod;

/// Connections carried at once; further ones wait to be accepted.
const LIMIT: usize = 256;

/// Ends the forwarding when dropped.
pub(super) struct Forwarding(AbortHandle);

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Carries on connections from now on. A host that cannot do it runs its pods
/// all the same, and says so.
pub(super) fn forward(pod: &Arc<Pod>, namespace: &Path) -> Option<Forwarding> {
    let taken = Loopback::take(namespace);
    let (listener, link) = match taken {
        Ok(loopback) => loopback.into_parts(),
        Err(error) => {
            let error = bulkhead_provision::chain(&error);
            tracing::warn!(error, "ports of the pod cannot be forwarded");
            return None;
        }
    };
    let pod = Arc::clone(pod);
    let task = tokio::spawn(async move {
        if let Err(error) = accept(&pod, listener).await {
            tracing::warn!(%error, "ports of the pod are not forwarded any more");
        }
        drop(link);
    });
    Some(Forwarding(task.abort_handle()))
}

async fn accept(pod: &Arc<Pod>, listener: std::net::TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(LIMIT));
    // They end with the forwarding.
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return Ok(());
        };
        let (connection, _) = listener.accept().await?;
        let pod = Arc::clone(pod);
        connections.spawn(async move {
            if let Err(error) = carry(&pod, connection).await {
                tracing::debug!(%error, "a forwarded connection ended");
            }
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(pod: &Pod, mut connection: TcpStream) -> io::Result<()> {
    let port = connection.local_addr()?.port();
    let refused = async {
        let sandbox = pod.booted().await.map_err(|e| e.to_string())?;
        sandbox.connect(port).await.map_err(|e| e.to_string())
    };
    match refused.await {
        Ok(Some(mut stream)) => {
            copy_bidirectional(&mut connection, &mut stream).await?;
            Ok(())
        }
        Ok(None) | Err(_) => {
            // A reset, as near to "refused" as an accepted connection comes.
            connection.set_zero_linger()
        }
    }
}

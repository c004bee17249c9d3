//! containerd's connections, counted: it holds one for each task it knows.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// How many are open.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connections(watch::Sender<usize>);

impl Connections {
    /// Takes the next one.
    pub(crate) async fn accept(&self, listener: &UnixListener) -> io::Result<Counted> {
        let (stream, _) = listener.accept().await?;
        self.0.send_modify(|open| *open += 1);
        Ok(Counted {
            stream,
            connections: self.clone(),
        })
    }

    /// Answers when none is open.
    pub(crate) async fn none(&self) {
        // The sender lives as long as `self`.
        let _ = self.0.subscribe().wait_for(|open| *open == 0).await;
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Counted {
    stream: UnixStream,
    connections: Connections,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connections.0.send_modify(|open| *open -= 1);
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn none_is_open_when_the_last_one_closed() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("sock")).unwrap();
        let connections = Connections::default();
        let connect = || std::os::unix::net::UnixStream::connect(dir.path().join("sock")).unwrap();
        let (_one, _other) = (connect(), connect());
        let one = connections.accept(&listener).await.unwrap();
        let other = connections.accept(&listener).await.unwrap();
        drop(one);
        assert_eq!(*connections.0.borrow(), 1);
        drop(other);
        connections.none().await;
    }
}

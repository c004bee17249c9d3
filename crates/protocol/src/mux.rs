//! Many flow-controlled streams over the one byte channel, by yamux.
//!
//! The host opens streams, the guest accepts them; a stream the guest opens is
//! dropped, so a hostile guest can make the host buffer at most one window
//! (256 KiB) for each stream the host itself asked for.
//!
//! A task drives each end: [`Opener::drive`] or [`Acceptor::drive`] has to be
//! polled for any stream to move. When the channel dies every stream ends.

use std::future::poll_fn;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite, BufStream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

/// One stream: reads, writes, and half-closes on shutdown.
pub type Stream = Compat<yamux::Stream>;

/// Streams that may exist at once on a channel.
const STREAM_LIMIT: usize = 1024;

/// Why the channel ended or a stream was not had.
#[derive(Debug, thiserror::Error)]
pub enum MuxError {
    /// The frames broke, or the channel reported an error.
    #[error("the channel between host and guest broke")]
    Broken(#[source] yamux::ConnectionError),
    /// The channel is gone.
    #[error("the channel between host and guest is closed")]
    Closed,
}

type Request = oneshot::Sender<Result<Stream, MuxError>>;

fn config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_connection_receive_window(Some(STREAM_LIMIT * (256 << 10)));
    config.set_max_num_streams(STREAM_LIMIT);
    config.set_split_send_size(32 << 10);
    config
}

/// Bytes gathered before the channel is touched.
const BUFFER: usize = 64 << 10;

/// Each touch of the port wakes the monitor, and yamux writes a frame's twelve
/// bytes of header apart from its body.
fn buffered<T: AsyncRead + AsyncWrite>(channel: T) -> BufStream<T> {
    BufStream::with_capacity(BUFFER, BUFFER, channel)
}

/// The host's end: opens streams. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Opener {
    requests: mpsc::Sender<Request>,
}

impl Opener {
    /// Takes the host's end of a channel. The second value has to be spawned.
    pub fn drive<T>(
        channel: T,
    ) -> (
        Self,
        impl Future<Output = Result<(), MuxError>> + Send + 'static,
    )
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (requests, queue) = mpsc::channel(16);
        let connection =
            yamux::Connection::new(buffered(channel).compat(), config(), yamux::Mode::Client);
        (Self { requests }, run_opener(connection, queue))
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// [`MuxError::Closed`] when the channel is gone, [`MuxError::Broken`]
    /// when it broke over this.
    pub async fn open(&self) -> Result<Stream, MuxError> {
        let (answer, stream) = oneshot::channel();
        self.requests
            .send(answer)
            .await
            .map_err(|_| MuxError::Closed)?;
        stream.await.map_err(|_| MuxError::Closed)?
    }
}

async fn run_opener<T>(
    mut connection: yamux::Connection<T>,
    mut queue: mpsc::Receiver<Request>,
) -> Result<(), MuxError>
where
    T: futures::AsyncRead + futures::AsyncWrite + Unpin,
{
    let mut waiting: Option<Request> = None;
    let mut open = true;
    poll_fn(move |context| {
        loop {
            if waiting.is_none() && open {
                match queue.poll_recv(context) {
                    Poll::Ready(Some(request)) => waiting = Some(request),
                    Poll::Ready(None) => open = false,
                    Poll::Pending => {}
                }
            }
            if waiting.is_some()
                && let Poll::Ready(outcome) = connection.poll_new_outbound(context)
            {
                let answer = outcome.map(|s| s.compat()).map_err(MuxError::Broken);
                if let Some(request) = waiting.take() {
                    // The asker may have given up; its stream then closes.
                    let _ = request.send(answer);
                }
                continue;
            }
            match connection.poll_next_inbound(context) {
                // Guests open nothing: dropping the stream resets it.
                Poll::Ready(Some(Ok(_refused))) => continue,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(MuxError::Broken(error))),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// The guest's end: accepts streams.
#[derive(Debug)]
pub struct Acceptor {
    streams: mpsc::Receiver<Stream>,
}

impl Acceptor {
    /// Takes the guest's end of a channel. The second value has to be spawned.
    pub fn drive<T>(
        channel: T,
    ) -> (
        Self,
        impl Future<Output = Result<(), MuxError>> + Send + 'static,
    )
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (accepted, streams) = mpsc::channel(STREAM_LIMIT);
        let mut connection =
            yamux::Connection::new(buffered(channel).compat(), config(), yamux::Mode::Server);
        let driver = async move {
            while let Some(stream) = poll_fn(|context| connection.poll_next_inbound(context)).await
            {
                let stream = stream.map_err(MuxError::Broken)?;
                // No room or no taker: the stream is reset by its drop, the
                // channel itself never blocks on one slow acceptor.
                let _ = accepted.try_send(stream.compat());
            }
            Ok(())
        };
        (Self { streams }, driver)
    }

    /// The next stream; `None` when the channel is gone.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn echo(mut acceptor: Acceptor) {
        while let Some(stream) = acceptor.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(stream);
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.shutdown().await.unwrap();
            });
        }
    }

    #[tokio::test]
    async fn a_hundred_streams_carry_their_own_bytes_and_half_close() {
        let (host, guest) = tokio::io::duplex(4096);
        let (opener, drive_host) = Opener::drive(host);
        let (acceptor, drive_guest) = Acceptor::drive(guest);
        tokio::spawn(drive_host);
        tokio::spawn(drive_guest);
        tokio::spawn(echo(acceptor));
        let mut tasks = Vec::new();
        for number in 0..100u8 {
            let opener = opener.clone();
            tasks.push(tokio::spawn(async move {
                let stream = opener.open().await.unwrap();
                let (mut read, mut write) = tokio::io::split(stream);
                let sent = vec![number; 100_000];
                let copy = sent.clone();
                tokio::spawn(async move {
                    write.write_all(&copy).await.unwrap();
                    write.shutdown().await.unwrap();
                });
                let mut back = Vec::new();
                read.read_to_end(&mut back).await.unwrap();
                assert_eq!(back, sent);
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn when_the_channel_dies_streams_end_and_open_fails() {
        let (host, guest) = tokio::io::duplex(4096);
        let (opener, drive_host) = Opener::drive(host);
        let driver = tokio::spawn(drive_host);
        let (mut acceptor, drive_guest) = Acceptor::drive(guest);
        let guest_driver = tokio::spawn(drive_guest);
        let mut stream = opener.open().await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert!(acceptor.accept().await.is_some());
        guest_driver.abort();
        drop(acceptor);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
        let _ = driver.await.unwrap();
        assert!(opener.open().await.is_err());
    }
}

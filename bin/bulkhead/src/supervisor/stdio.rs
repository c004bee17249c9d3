//! Between the sandbox's streams and the pipes of attached commands.

use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use bulkhead_sandbox::{HostStdio, ReadStream, WriteStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::log::{Log, Source};
use bulkhead_control::Pipes;

/// Bytes moved at once.
const CHUNK: usize = 64 << 10;

/// The stdio of the container's first process: logged, and given to any
/// number of attached commands. A command that does not read slows the
/// container down, as a full pipe does.
#[derive(Debug, Default)]
pub(super) struct Hub {
    stdin: Mutex<Option<WriteStream>>,
    stdout: Mutex<Vec<pipe::Sender>>,
    stderr: Mutex<Vec<pipe::Sender>>,
}

impl Hub {
    /// Connects a command's output pipes.
    pub(super) async fn attach_output(&self, pipes: &mut Pipes) {
        if let Some(pipe) = pipes.stdout.take() {
            self.stdout.lock().await.push(pipe);
        }
        if let Some(pipe) = pipes.stderr.take() {
            self.stderr.lock().await.push(pipe);
        }
    }

    /// Moves a command's input until it ends; then the process's input ends.
    pub(super) async fn pump_stdin(&self, mut from: pipe::Receiver) {
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = from.read(&mut buffer).await.unwrap_or(0);
            let mut stdin = self.stdin.lock().await;
            if count == 0 {
                if let Some(mut stdin) = stdin.take() {
                    let _ = stdin.shutdown().await;
                }
                return;
            }
            let Some(stream) = stdin.as_mut() else { return };
            if stream.write_all(&buffer[..count]).await.is_err() {
                *stdin = None;
                return;
            }
        }
    }

    /// Takes over the process's streams; the handles end with its output.
    pub(super) async fn start(
        self: &Arc<Self>,
        stdio: HostStdio,
        log: Option<Log>,
    ) -> Vec<JoinHandle<()>> {
        *self.stdin.lock().await = stdio.stdin;
        // Shared by the two pumps; held for one write, never across an await.
        let log = Arc::new(StdMutex::new(log));
        let mut pumps = vec![tokio::spawn(pump(
            stdio.stdout,
            Arc::clone(self),
            Source::Stdout,
            Arc::clone(&log),
        ))];
        if let Some(stderr) = stdio.stderr {
            pumps.push(tokio::spawn(pump(
                stderr,
                Arc::clone(self),
                Source::Stderr,
                log,
            )));
        }
        pumps
    }

    /// Lets go of every attached command.
    pub(super) async fn close(&self) {
        self.stdout.lock().await.clear();
        self.stderr.lock().await.clear();
    }
}

async fn pump(
    mut from: ReadStream,
    hub: Arc<Hub>,
    source: Source,
    log: Arc<StdMutex<Option<Log>>>,
) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let bytes = &buffer[..count];
        if let Some(log) = log.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
            && let Err(error) = log.write(source, bytes)
        {
            tracing::warn!(%error, "the container's output could not be logged");
        }
        let sinks = match source {
            Source::Stdout => &hub.stdout,
            Source::Stderr => &hub.stderr,
        };
        let mut sinks = sinks.lock().await;
        let mut alive = Vec::with_capacity(sinks.len());
        for mut sink in sinks.drain(..) {
            if sink.write_all(bytes).await.is_ok() {
                alive.push(sink);
            }
        }
        *sinks = alive;
    }
}

/// Pumps of a further process, which is never logged.
pub(super) fn pump_exec(stdio: HostStdio, pipes: Pipes) -> ExecPumps {
    let mut output = Vec::new();
    if let Some(pipe) = pipes.stdout {
        output.push(tokio::spawn(copy(stdio.stdout, pipe)));
    }
    if let (Some(stream), Some(pipe)) = (stdio.stderr, pipes.stderr) {
        output.push(tokio::spawn(copy(stream, pipe)));
    }
    let input = match (pipes.stdin, stdio.stdin) {
        (Some(pipe), Some(stream)) => Some(tokio::spawn(feed(pipe, stream))),
        _ => None,
    };
    ExecPumps { output, input }
}

/// The running pumps of a further process.
#[derive(Debug)]
pub(super) struct ExecPumps {
    output: Vec<JoinHandle<()>>,
    input: Option<JoinHandle<()>>,
}

impl ExecPumps {
    /// Waits for the output's end.
    pub(super) async fn finish(self) {
        for pump in self.output {
            let _ = pump.await;
        }
        if let Some(pump) = self.input {
            pump.abort();
        }
    }
}

async fn copy(mut from: ReadStream, mut to: pipe::Sender) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    // Whatever still comes is read and dropped, so that the process goes on.
    while let Ok(1..) = from.read(&mut buffer).await {}
}

async fn feed(mut from: pipe::Receiver, mut to: WriteStream) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

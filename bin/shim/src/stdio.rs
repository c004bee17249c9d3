//! Between a process's streams and the named pipes containerd made for them.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_sandbox::{HostStdio, ReadStream, WriteStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::failure::{Failure, Outcome};
use crate::logger::{self, Logger, Owner};

/// Bytes moved at once.
const CHUNK: usize = 64 << 10;

/// How long the reader of an output may take to come.
const READER_TIMEOUT: Duration = Duration::from_secs(10);

/// ENXIO: a named pipe that nobody has open for reading. open(2).
const NO_READER: i32 = 6;

/// What containerd says of a process's stdio; an empty path is nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Paths {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
}

/// Where output goes.
#[derive(Debug)]
pub(crate) enum Sink {
    Pipe {
        to: pipe::Sender,
        /// A reader of our own: a containerd that restarts leaves the pipe
        /// without one for a while, which must not end the output.
        _reader: Option<pipe::Receiver>,
    },
    File(std::fs::File),
}

impl Sink {
    /// A pipe that ends with whoever reads it.
    fn read_by(to: pipe::Sender) -> Self {
        Self::Pipe { to, _reader: None }
    }

    async fn open(path: &str) -> Outcome<Option<Self>> {
        let failed = |error: std::io::Error| {
            Failure::invalid(format!("the output `{path}` cannot be opened: {error}"))
        };
        if path.is_empty() {
            return Ok(None);
        }
        if let Some(file) = path.strip_prefix("file://") {
            let mut options = std::fs::OpenOptions::new();
            options.append(true).create(true).mode(0o600);
            return options.open(file).map(Self::File).map(Some).map_err(failed);
        }
        if path.contains("://") {
            return Err(Failure::unimplemented(format!(
                "the output `{path}` is of a kind that is not supported: a named pipe, file:// or \
                 binary://"
            )));
        }
        let to = sender(path).await.map_err(failed)?;
        let reader = pipe::OpenOptions::new().open_receiver(path);
        Ok(Some(Self::Pipe {
            to,
            _reader: Some(reader.map_err(failed)?),
        }))
    }

    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Pipe { to, .. } => to.write_all(bytes).await,
            Self::File(file) => file.write_all(bytes),
        }
    }

    /// Writes what fits at once: nobody may read any more.
    fn write_now(&mut self, bytes: &[u8]) {
        let _ = match self {
            Self::Pipe { to, .. } => to.try_write(bytes).map(drop),
            Self::File(file) => file.write_all(bytes),
        };
    }
}

/// Opens a pipe once somebody reads it. Who writes and leaves before that
/// leaves a reader who waits for ever.
async fn sender(path: &str) -> std::io::Result<pipe::Sender> {
    match pipe::OpenOptions::new().open_sender(path) {
        Err(error) if error.raw_os_error() == Some(NO_READER) => {}
        opened => return opened,
    }
    let waiting = path.to_owned();
    // The one way to be told of a reader is an open that waits: fifo(7).
    let open = move || std::fs::File::options().write(true).open(waiting);
    let opened = tokio::time::timeout(READER_TIMEOUT, tokio::task::spawn_blocking(open)).await;
    match opened {
        Ok(Ok(file)) => pipe::Sender::from_file(file?),
        Ok(Err(panicked)) => Err(std::io::Error::other(panicked)),
        Err(_) => {
            // A reader for a moment lets the thread go.
            drop(pipe::OpenOptions::new().open_receiver(path));
            Err(std::io::Error::other("nobody came to read it"))
        }
    }
}

/// The host's ends, open.
#[derive(Debug)]
pub(crate) struct Ends {
    stdin: Option<pipe::Receiver>,
    stdout: Option<Sink>,
    stderr: Option<Sink>,
    /// The program that takes both.
    logger: Option<Logger>,
}

impl Ends {
    /// Those of a command, which go with it.
    pub(crate) fn of(pipes: bulkhead_control::Pipes) -> Self {
        Self {
            stdin: pipes.stdin,
            stdout: pipes.stdout.map(Sink::read_by),
            stderr: pipes.stderr.map(Sink::read_by),
            logger: None,
        }
    }
}

/// Opens the pipes, or starts the program that takes the output.
pub(crate) async fn open(paths: &Paths, owner: Owner<'_>) -> Outcome<Ends> {
    let stdin = match paths.stdin.as_str() {
        "" => None,
        path => Some(
            pipe::OpenOptions::new()
                .open_receiver(path)
                .map_err(|error| {
                    Failure::invalid(format!("the input `{path}` cannot be opened: {error}"))
                })?,
        ),
    };
    if paths.stdout.starts_with(logger::SCHEME) {
        let (logger, stdout, stderr) = logger::start(&paths.stdout, owner).await?;
        return Ok(Ends {
            stdin,
            stdout: Some(Sink::read_by(stdout)),
            stderr: (!paths.terminal).then(|| Sink::read_by(stderr)),
            logger: Some(logger),
        });
    }
    let stderr = if paths.terminal { "" } else { &paths.stderr };
    Ok(Ends {
        stdin,
        stdout: Sink::open(&paths.stdout).await?,
        stderr: Sink::open(stderr).await?,
        logger: None,
    })
}

/// The tasks that move a process's bytes.
#[derive(Debug)]
pub(crate) struct Pumps {
    stdout: JoinHandle<Option<Sink>>,
    stderr: Option<JoinHandle<Option<Sink>>>,
    input: Option<JoinHandle<()>>,
    logger: Option<Logger>,
}

impl Pumps {
    /// Starts them. `close` ends the input, as CloseIO asks.
    pub(crate) fn start(ends: Ends, streams: HostStdio, close: Arc<Notify>) -> Self {
        let input = match (ends.stdin, streams.stdin) {
            (Some(pipe), Some(stream)) => Some(tokio::spawn(feed(pipe, stream, close))),
            _ => None,
        };
        Self {
            stdout: tokio::spawn(drain(streams.stdout, ends.stdout)),
            stderr: streams
                .stderr
                .map(|stream| tokio::spawn(drain(stream, ends.stderr))),
            input,
            logger: ends.logger,
        }
    }

    /// Waits for the output's end; `last_words` are written behind it.
    pub(crate) async fn finish(self, last_words: Option<&str>) {
        let mut stdout = self.stdout.await.ok().flatten();
        let mut stderr = match self.stderr {
            Some(pump) => pump.await.ok().flatten(),
            None => None,
        };
        let sink = stderr.as_mut().or(stdout.as_mut());
        if let (Some(words), Some(sink)) = (last_words, sink) {
            sink.write_now(words.as_bytes());
        }
        drop((stdout, stderr));
        if let Some(logger) = self.logger {
            logger.end().await;
        }
        if let Some(pump) = self.input {
            pump.abort();
        }
    }
}

/// Moves output until its end. What nobody takes is dropped, so that the
/// process goes on.
async fn drain(mut from: ReadStream, mut to: Option<Sink>) -> Option<Sink> {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if let Some(sink) = &mut to
            && sink.write(&buffer[..count]).await.is_err()
        {
            to = None;
        }
    }
    to
}

/// Moves input until every writer is gone or containerd closes it.
async fn feed(pipe: pipe::Receiver, mut to: WriteStream, close: Arc<Notify>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        // A pipe nobody has opened yet reads as ended; it is not readable,
        // though, until somebody has been there. What is in the pipe goes
        // before a close.
        tokio::select! {
            biased;
            ready = pipe.readable() => if ready.is_err() { break },
            () = close.notified() => break,
        }
        match pipe.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                if to.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fifo(dir: &tempfile::TempDir) -> String {
        let path = dir.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
        path.to_string_lossy().into_owned()
    }

    #[tokio::test]
    async fn a_pipe_nobody_opened_yet_has_not_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(&dir);
        let receiver = pipe::OpenOptions::new().open_receiver(&path).unwrap();
        let moment = Duration::from_millis(50);
        assert!(
            tokio::time::timeout(moment, receiver.readable())
                .await
                .is_err()
        );
        let mut sender = pipe::OpenOptions::new().open_sender(&path).unwrap();
        sender.write_all(b"x").await.unwrap();
        receiver.readable().await.unwrap();
        assert_eq!(receiver.try_read(&mut [0; 8]).unwrap(), 1);
        drop(sender);
        receiver.readable().await.unwrap();
        assert_eq!(receiver.try_read(&mut [0; 8]).unwrap(), 0);
    }

    #[tokio::test]
    async fn output_waits_for_a_first_reader_and_is_only_a_pipe_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(&dir);
        let (sink, reader) = tokio::join!(Sink::open(&path), async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            pipe::OpenOptions::new().open_receiver(&path).unwrap()
        });
        let mut sink = sink.unwrap().unwrap();
        drop(reader);
        sink.write(b"kept").await.unwrap();
        let file = format!("file://{}", dir.path().join("log").display());
        let mut sink = Sink::open(&file).await.unwrap().unwrap();
        sink.write(b"line\n").await.unwrap();
        assert_eq!(std::fs::read(dir.path().join("log")).unwrap(), b"line\n");
        assert!(Sink::open("stream:///bin/logger").await.is_err());
        assert!(Sink::open("/dev/null").await.is_err());
        assert!(Sink::open("").await.unwrap().is_none());
    }
}

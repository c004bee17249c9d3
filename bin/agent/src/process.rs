//! A process of a container: its exit, its output, its terminal.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bulkhead_protocol::agent;
use bulkhead_protocol::mux::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use crate::fd::AsyncFile;
use crate::reaper::Exit;

/// Bytes moved at once.
const CHUNK: usize = 64 << 10;

/// The agent's ends of a process's stdio.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    /// Instead of the three.
    pub(crate) terminal: Option<OwnedFd>,
}

/// The host's streams for them.
#[derive(Debug, Default)]
pub(crate) struct HostStreams {
    pub(crate) stdin: Option<Stream>,
    pub(crate) stdout: Option<Stream>,
    pub(crate) stderr: Option<Stream>,
}

/// A process that was started, or is about to be.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    /// Pid in the guest.
    pub(crate) pid: i32,
    exit: watch::Receiver<Option<Exit>>,
    /// The host knows how it ended.
    told: Arc<AtomicBool>,
    terminal: Option<Arc<OwnedFd>>,
}

impl Process {
    /// Takes over a process: pumps its stdio until it ends.
    pub(crate) fn new(
        pid: i32,
        exit: tokio::sync::oneshot::Receiver<Exit>,
        ends: Ends,
        streams: HostStreams,
    ) -> std::io::Result<Self> {
        let terminal = match &ends.terminal {
            Some(fd) => Some(Arc::new(fd.as_fd().try_clone_to_owned()?)),
            None => None,
        };
        let (ended, has_ended) = watch::channel(false);
        let pumps = Pumps::start(ends, streams, &has_ended)?;
        let (tell, exit_watch) = watch::channel(None);
        tokio::spawn(async move {
            // A dropped sender cannot happen while the reaper lives; 255 is
            // what runc reports when it lost a process.
            let exit = exit.await.unwrap_or(Exit {
                status: 255,
                signal: 0,
            });
            ended.send_replace(true);
            pumps.finish().await;
            tell.send_replace(Some(exit));
        });
        Ok(Self {
            pid,
            exit: exit_watch,
            told: Arc::default(),
            terminal,
        })
    }

    /// Answers when the process has ended and its output was handed over.
    pub(crate) async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit {
                status: 255,
                signal: 0,
            }),
            Err(_) => Exit {
                status: 255,
                signal: 0,
            },
        }
    }

    /// The host was told how it ended: it may be forgotten.
    pub(crate) fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    /// The host was told.
    pub(crate) fn told(&self) {
        self.told.store(true, Ordering::Relaxed);
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Sets the terminal's size; nothing happens without a terminal.
    pub(crate) fn resize(&self, rows: u16, columns: u16) -> std::io::Result<()> {
        let Some(terminal) = &self.terminal else {
            return Ok(());
        };
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(rustix::termios::tcsetwinsize(terminal.as_fd(), size)?)
    }
}

/// What the caller asked for, as terminal rows and columns.
pub(crate) fn size(stdio: &agent::Stdio) -> Option<(u16, u16)> {
    let rows = u16::try_from(stdio.rows).ok().filter(|n| *n > 0)?;
    let columns = u16::try_from(stdio.columns).ok().filter(|n| *n > 0)?;
    Some((rows, columns))
}

#[derive(Default)]
struct Pumps {
    output: Vec<tokio::task::JoinHandle<()>>,
    input: Option<tokio::task::JoinHandle<()>>,
}

impl Pumps {
    fn start(
        ends: Ends,
        streams: HostStreams,
        ended: &watch::Receiver<bool>,
    ) -> std::io::Result<Self> {
        let mut pumps = Self::default();
        if let Some(terminal) = ends.terminal {
            let write_end = AsyncFile::new(terminal.try_clone()?)?;
            pumps.output(terminal, streams.stdout, ended)?;
            pumps.input = streams
                .stdin
                .map(|stream| tokio::spawn(pump_in(stream, write_end, true)));
            return Ok(pumps);
        }
        if let (Some(fd), Some(stream)) = (ends.stdin, streams.stdin) {
            let file = AsyncFile::new(fd)?;
            pumps.input = Some(tokio::spawn(pump_in(stream, file, false)));
        }
        for (fd, stream) in [(ends.stdout, streams.stdout), (ends.stderr, streams.stderr)] {
            if let Some(fd) = fd {
                pumps.output(fd, stream, ended)?;
            }
        }
        Ok(pumps)
    }

    fn output(
        &mut self,
        fd: OwnedFd,
        stream: Option<Stream>,
        ended: &watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        let file = AsyncFile::new(fd)?;
        self.output
            .push(tokio::spawn(pump_out(file, stream, ended.clone())));
        Ok(())
    }

    async fn finish(self) {
        for pump in self.output {
            let _ = pump.await;
        }
        if let Some(pump) = self.input {
            pump.abort();
        }
    }
}

/// Moves output to the host until end of file. Once the process has ended,
/// what is still in the pipe is moved and then the pipe is given up, however
/// many orphans hold its other end.
async fn pump_out(
    mut file: AsyncFile,
    mut stream: Option<Stream>,
    mut ended: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = tokio::select! {
            biased;
            read = file.read(&mut buffer) => read.unwrap_or(0),
            _ = ended.wait_for(|ended| *ended) => match file.read_now(&mut buffer) {
                Some(count) => count,
                None => break,
            },
        };
        if count == 0 {
            break;
        }
        // Without a reader the output is dropped, as to /dev/null: a process
        // must not block because nobody listens.
        if let Some(out) = &mut stream
            && out.write_all(&buffer[..count]).await.is_err()
        {
            stream = None;
        }
    }
    if let Some(mut stream) = stream {
        let _ = stream.shutdown().await;
    }
}

/// Moves input to the process. The host's end of file closes the pipe; on a
/// terminal it is the end-of-file character, as a closed terminal would hang
/// the process up.
async fn pump_in(mut stream: Stream, mut file: AsyncFile, terminal: bool) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if file.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    if terminal {
        const END_OF_TRANSMISSION: u8 = 4;
        let _ = file.write_all(&[END_OF_TRANSMISSION]).await;
    }
}

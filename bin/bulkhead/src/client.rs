//! A command's side of an attached process: terminal, pipes, signals.

mod keys;
mod pumps;
mod terminal;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::report::{CommandError, Outcome};
use bulkhead_control::Call;
use bulkhead_control::{Answer, Reply, Request, Socket, Streams};

pub(crate) use pumps::Near;
pub(crate) use terminal::{Raw, size as terminal_size};

/// Which of the command's stdio is connected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) terminal: bool,
    /// Signals are passed on to the process.
    pub(crate) proxy_signals: bool,
}

/// A conversation with a supervisor.
pub(crate) struct Client {
    socket: Arc<Socket>,
    next: AtomicU64,
}

impl Client {
    pub(crate) fn new(socket: Socket) -> Self {
        Self {
            socket: Arc::new(socket),
            next: AtomicU64::new(1),
        }
    }

    /// Sends a request and gives its number.
    pub(crate) fn send(
        &self,
        request: Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<u64, CommandError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.socket.send(&Call { number, request }, fds)?;
        Ok(number)
    }

    /// Waits for the answer to a request; others in between are dropped.
    pub(crate) fn answer(&self, number: u64) -> Result<Answer, CommandError> {
        loop {
            let reply: Option<Reply> = self.socket.receive()?;
            let Some(reply) = reply else {
                return Err(CommandError::with_code(
                    255,
                    "the container's supervisor was killed, and its virtual machine with it",
                ));
            };
            if reply.number == pumps::DETACHED {
                return Ok(Answer::Done);
            }
            if reply.number == number {
                return match reply.answer {
                    Answer::Failed(failure) => Err(failure.into()),
                    answer => Ok(answer),
                };
            }
        }
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn ask(&self, request: Request) -> Result<Answer, CommandError> {
        let number = self.send(request, &[])?;
        self.answer(number)
    }

    /// Makes the pipes of an attachment and sends the request with them.
    pub(crate) fn attach(
        &self,
        wanted: Wanted,
        request: impl FnOnce(Streams) -> Request,
    ) -> Result<Attachment, CommandError> {
        let pipes = pumps::Pipes::new(wanted.stdin, !wanted.terminal)?;
        let streams = Streams {
            stdin: wanted.stdin,
            stdout: true,
            stderr: !wanted.terminal,
        };
        let number = self.send(request(streams), &pipes.far())?;
        Ok(Attachment {
            number,
            pipes: pipes.near(),
            wanted,
        })
    }

    /// Connects this process's stdio to the attachment until the other side
    /// has ended or the user leaves, and gives the exit code.
    pub(crate) fn run(&self, attachment: Attachment) -> Outcome {
        let Attachment {
            number,
            pipes,
            wanted,
        } = attachment;
        let raw = if wanted.terminal { Raw::enter()? } else { None };
        let outputs = pumps::start_output(pipes.stdout, pipes.stderr);
        if let Some(pipe) = pipes.stdin {
            let detach = pumps::Detach {
                socket: Arc::clone(&self.socket),
                number,
            };
            pumps::start_input(pipe, wanted.terminal.then_some(detach));
        }
        if wanted.proxy_signals || wanted.terminal {
            terminal::forward(Arc::clone(&self.socket), number, wanted)?;
        }
        let answer = self.answer(number);
        if !matches!(answer, Ok(Answer::Done)) {
            for output in outputs {
                let _ = output.join();
            }
        }
        drop(raw);
        match answer? {
            Answer::Exited { code, reason } => {
                if let Some(reason) = reason {
                    eprintln!("{} {reason}", crate::style::error("error:"));
                }
                Ok(ExitCode::from(u8::try_from(code).unwrap_or(255)))
            }
            // The user typed the keys that leave.
            _ => Ok(ExitCode::SUCCESS),
        }
    }
}

impl Client {
    /// Lets `work` have the pipes of an attached process instead of this
    /// process's stdio. What the process says on standard error is its error.
    pub(crate) fn transfer(
        &self,
        attachment: Attachment,
        work: impl FnOnce(Option<File>, Option<File>) -> std::io::Result<()>,
    ) -> Result<(), CommandError> {
        let Attachment { number, pipes, .. } = attachment;
        let stderr = pipes.stderr.map(|pipe| {
            std::thread::spawn(move || {
                let mut text = String::new();
                let _ = File::from(pipe)
                    .take(COMPLAINT_LIMIT)
                    .read_to_string(&mut text);
                text
            })
        });
        let worked = work(pipes.stdin.map(File::from), pipes.stdout.map(File::from));
        let answer = self.answer(number)?;
        let complaint = stderr.and_then(|thread| thread.join().ok());
        match (answer, worked) {
            // The other side's reason comes first: ours mostly is a broken pipe.
            (Answer::Exited { code, reason }, _) if code != 0 => {
                let text = complaint.unwrap_or_default().trim().to_owned();
                let text = if text.is_empty() { reason } else { Some(text) };
                Err(CommandError::new(text.unwrap_or_else(|| {
                    format!("the other side ended with code {code}")
                })))
            }
            (_, worked) => Ok(worked?),
        }
    }
}

/// Bytes of an error of the other side that are read.
const COMPLAINT_LIMIT: u64 = 4096;

/// Pipes that were sent to a supervisor.
pub(crate) struct Attachment {
    number: u64,
    pipes: Near,
    wanted: Wanted,
}

impl Attachment {
    /// The number of the request.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

/// Moves bytes between this process's stdio and pipes, by threads; those of the output
/// end with it.
pub(crate) fn relay(pipes: Near) -> Vec<std::thread::JoinHandle<()>> {
    if let Some(pipe) = pipes.stdin {
        pumps::start_input(pipe, None);
    }
    pumps::start_output(pipes.stdout, pipes.stderr)
}

fn borrow(fds: &[Option<OwnedFd>]) -> Vec<BorrowedFd<'_>> {
    fds.iter().flatten().map(AsFd::as_fd).collect()
}

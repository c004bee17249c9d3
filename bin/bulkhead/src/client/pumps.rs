//! Threads between this process's stdio and the pipes. Blocking: the stdio
//! belongs to the user's shell too, and must not become non-blocking.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::fs::FileType;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

use super::keys::Keys;
use bulkhead_control::Call;
use bulkhead_control::{Request, Socket};

const CHUNK: usize = 64 << 10;

/// Wanted size of the output pipes, bytes; fcntl(2), F_SETPIPE_SZ.
const PIPE_SIZE: usize = 1 << 20;

/// Both ends of the pipes.
pub(super) struct Pipes {
    near: Near,
    far: [Option<OwnedFd>; 3],
}

/// This process's ends.
#[derive(Debug, Default)]
pub(crate) struct Near {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

impl Pipes {
    pub(super) fn new(stdin: bool, stderr: bool) -> std::io::Result<Self> {
        let mut near = Near::default();
        let mut far = [None, None, None];
        if stdin {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            (near.stdin, far[0]) = (Some(write), Some(read));
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        // Only faster, so a refusal does not matter.
        let _ = rustix::pipe::fcntl_setpipe_size(&read, PIPE_SIZE);
        (near.stdout, far[1]) = (Some(read), Some(write));
        if stderr {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            (near.stderr, far[2]) = (Some(read), Some(write));
        }
        Ok(Self { near, far })
    }

    /// The supervisor's ends, in the order of the protocol.
    pub(super) fn far(&self) -> Vec<BorrowedFd<'_>> {
        super::borrow(&self.far)
    }

    /// Keeps this process's ends and closes the others.
    pub(super) fn near(self) -> Near {
        self.near
    }
}

/// Starts moving output; the threads end with it.
pub(super) fn start_output(
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
) -> Vec<JoinHandle<()>> {
    let out = stdout.map(|pipe| std::thread::spawn(move || move_out(&pipe, std::io::stdout())));
    let err = stderr.map(|pipe| std::thread::spawn(move || move_out(&pipe, std::io::stderr())));
    out.into_iter().chain(err).collect()
}

/// Would what is spliced land where it is to? A file's offset is looked at before
/// splice(2) waits, and with `> file 2>&1` the other stream has moved it by then.
fn takes_splices(to: impl AsFd) -> bool {
    rustix::fs::fstat(to)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile)
}

fn move_out(pipe: &OwnedFd, mut to: impl Write + AsFd) {
    if takes_splices(to.as_fd()) && splice_all(pipe, to.as_fd()) {
        return;
    }
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = rustix::io::read(pipe, &mut buffer) {
        if to
            .write_all(&buffer[..count])
            .and_then(|()| to.flush())
            .is_err()
        {
            return;
        }
    }
}

/// Moves all there is to move; not so to terminals, which take nothing this way.
fn splice_all(pipe: &OwnedFd, to: BorrowedFd<'_>) -> bool {
    loop {
        match splice(pipe, None, to, None, PIPE_SIZE, SpliceFlags::MOVE) {
            Ok(1..) => {}
            Err(rustix::io::Errno::INVAL) => return false,
            Ok(0) | Err(_) => return true,
        }
    }
}

/// Number of the request that leaves.
pub(super) const DETACHED: u64 = u64::MAX;

/// How to leave.
pub(super) struct Detach {
    pub(super) socket: Arc<Socket>,
    pub(super) number: u64,
}

/// Starts moving input. The thread is not waited for: it may block in a read
/// that never ends.
pub(super) fn start_input(pipe: OwnedFd, detach: Option<Detach>) {
    std::thread::spawn(move || {
        let mut keys = Keys::default();
        let mut buffer = vec![0; CHUNK];
        while let Ok(count @ 1..) = rustix::io::read(std::io::stdin(), &mut buffer) {
            let typed = &buffer[..count];
            let Some(detach) = &detach else {
                if write_all(&pipe, typed).is_err() {
                    return;
                }
                continue;
            };
            let (bytes, leave) = keys.filter(typed);
            if write_all(&pipe, &bytes).is_err() {
                return;
            }
            if leave {
                return self::leave(detach, pipe);
            }
        }
    });
}

/// Asks to be let go. The answer ends the command's main thread; until the
/// process ends with it the pipe stays open, so that the container's input
/// does not end.
fn leave(detach: &Detach, pipe: OwnedFd) {
    let request = Request::Detach {
        attached: detach.number,
    };
    let _ = detach.socket.send(
        &Call {
            number: DETACHED,
            request,
        },
        &[],
    );
    std::mem::forget(pipe);
}

fn write_all(pipe: &OwnedFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::write(pipe, bytes)?;
        bytes = &bytes[written..];
    }
    Ok(())
}

//! How the streams of this process become those of a container's: pipes as they are,
//! by their names in `/proc`; whatever else, terminals above all, by named pipes
//! between which and it the stand-in moves bytes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use super::{Error, Place};
use crate::client::Near;

/// The numbers of /dev/null. devices.txt of the kernel's documentation.
const NULL: (u32, u32) = (1, 3);

/// What the shim is told; empty: no such stream.
#[derive(Debug, Clone, Default)]
pub(super) struct Paths {
    pub(super) stdin: String,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Streams, ready to be told of.
pub(super) struct Stdio {
    pub(super) paths: Paths,
    /// The stand-in's ends of the named pipes.
    near: Near,
    made: Made,
}

/// Named pipes, whose names go with this: whoever needs them has them open by then.
#[derive(Default)]
pub(super) struct Made(Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

enum What {
    Nothing,
    Pipe,
    Other,
}

fn look(fd: BorrowedFd<'_>) -> What {
    let Ok(stat) = rustix::fs::fstat(fd) else {
        return What::Nothing;
    };
    let numbers = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => What::Pipe,
        FileType::CharacterDevice if numbers == NULL => What::Nothing,
        _ => What::Other,
    }
}

/// Its name for another process, as long as this one lives. proc_pid_fd(5).
fn name(fd: BorrowedFd<'_>) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}

impl Stdio {
    /// Those of this process; with `terminal`, all of them by the stand-in. `exec` names
    /// the process they are for, among the container's.
    pub(super) fn open(place: &Place, exec: &str, terminal: bool) -> Result<Self, Error> {
        let mut made = Made::default();
        let at = |stream| place.file(&format!("{exec}-{stream}"));
        // What keeps a pipe from ending before its other side has come, and does not
        // wait for it: both ends at once. fifo(7).
        let (to, from) = (OFlags::RDWR, OFlags::RDONLY | OFlags::NONBLOCK);
        let mut stream = |fd: BorrowedFd<'_>, what, flags| match look(fd) {
            What::Pipe if !terminal => Ok((name(fd), None)),
            What::Nothing if !terminal => Ok((String::new(), None)),
            _ => made.relay(&at(what), flags),
        };
        let (stdin, to_stdin) = stream(io::stdin().as_fd(), "stdin", to)?;
        let (stdout, from_stdout) = stream(io::stdout().as_fd(), "stdout", from)?;
        // A terminal's is its output.
        let (stderr, from_stderr) = match terminal {
            true => (String::new(), None),
            false => stream(io::stderr().as_fd(), "stderr", from)?,
        };
        Ok(Self {
            paths: Paths {
                stdin,
                stdout,
                stderr,
            },
            near: Near {
                stdin: to_stdin,
                stdout: from_stdout,
                stderr: from_stderr,
            },
            made,
        })
    }

    /// The ends to be handed over, and the names.
    pub(super) fn split(self) -> (Near, Made) {
        (self.near, self.made)
    }
}

impl Made {
    /// Makes one and opens this process's end.
    fn relay(&mut self, path: &Path, flags: OFlags) -> Result<(String, Option<OwnedFd>), Error> {
        let kind = FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, Mode::from_raw_mode(0o600), 0)
            .map_err(|error| Error::io("make", path)(error.into()))?;
        self.0.push(path.to_owned());
        let opened = rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
        let opened = opened.and_then(|fd| {
            // Only the opening must not wait.
            rustix::fs::fcntl_setfl(&fd, OFlags::empty())?;
            Ok(fd)
        });
        let fd = opened.map_err(|error| Error::io("open", path)(error.into()))?;
        Ok((path.display().to_string(), Some(fd)))
    }
}

//! What a forked child and the agent tell each other before the child
//! executes its program: a socket that execve(2) closes.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::error::{During, Error, ErrorKind};

/// A child that says nothing for so long is given up.
const TIMEOUT: Duration = Duration::from_secs(60);

/// An error's text on the wire.
const TEXT_LIMIT: usize = 4096;

const READY: u8 = b'R';
const FAILED: u8 = b'E';

/// What the agent tells the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The user namespace has its mappings.
    Mapped,
    /// Execute the program.
    Start,
}

impl Order {
    fn byte(self) -> u8 {
        match self {
            Self::Mapped => b'M',
            Self::Start => b'S',
        }
    }
}

/// What the child tells the agent.
#[derive(Debug)]
pub(super) enum Report {
    /// All is set up; with the terminal's master.
    Ready(Option<OwnedFd>),
    /// It went wrong and the child is about to end.
    Failed(Error),
    /// The socket closed: the program runs, or the child died.
    Closed,
}

/// One end.
#[derive(Debug)]
pub(super) struct Wire {
    fd: OwnedFd,
}

/// Both ends; either may be the child's.
pub(super) fn pair() -> Result<(Wire, Wire), Error> {
    let make = || {
        let (near, far) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let timeout = rustix::net::sockopt::Timeout::Recv;
        rustix::net::sockopt::set_socket_timeout(&near, timeout, Some(TIMEOUT))?;
        Ok::<_, io::Error>((Wire { fd: near }, Wire { fd: far }))
    };
    make().during("the socket to the new process could not be made")
}

impl Wire {
    pub(super) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Agent: gives an order. A child that is gone reports by closing.
    pub(super) fn order(&self, order: Order) -> io::Result<()> {
        match rustix::net::send(&self.fd, &[order.byte()], SendFlags::NOSIGNAL) {
            Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Child: waits for an order. The agent's end never closes before.
    pub(super) fn wait(&self, order: Order) -> io::Result<()> {
        let mut byte = [0];
        // read(2): the container's seccomp filter may hold already.
        let count = rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut byte))?;
        if count == 1 && byte[0] == order.byte() {
            Ok(())
        } else {
            Err(io::ErrorKind::ConnectionAborted.into())
        }
    }

    /// Child: hands over the terminal and says that all is set up.
    pub(super) fn ready(&self, terminal: Option<&OwnedFd>) -> io::Result<()> {
        let Some(terminal) = terminal else {
            rustix::io::write(&self.fd, &[READY])?;
            return Ok(());
        };
        let fds = [terminal.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&self.fd, &[IoSlice::new(&[READY])], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Child: says what went wrong. There is nobody to tell if that fails.
    pub(super) fn fail(&self, error: &Error) {
        let kind = match error.kind() {
            ErrorKind::NotFound => 0,
            ErrorKind::NotExecutable => 1,
            ErrorKind::Invalid => 2,
            ErrorKind::Other => 3,
        };
        let mut message = vec![FAILED, kind];
        message.extend(crate::chain(error).bytes().take(TEXT_LIMIT));
        let _ = rustix::io::write(&self.fd, &message);
    }

    /// Agent: the child's next report.
    pub(super) fn receive(&self) -> Result<Report, Error> {
        let mut buffer = [0; TEXT_LIMIT + 2];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(
                &self.fd,
                &mut [IoSliceMut::new(&mut buffer)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            )
        });
        let count = match received {
            Ok(message) => message.bytes,
            Err(Errno::CONNRESET) => 0,
            Err(error) => return Err(error).during("the new process does not answer"),
        };
        let terminal = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        Ok(match &buffer[..count] {
            [READY, ..] => Report::Ready(terminal),
            [FAILED, kind, text @ ..] => {
                let kind = match kind {
                    0 => ErrorKind::NotFound,
                    1 => ErrorKind::NotExecutable,
                    2 => ErrorKind::Invalid,
                    _ => ErrorKind::Other,
                };
                let text = String::from_utf8_lossy(text).into_owned();
                Report::Failed(Error::Reported { kind, text })
            }
            _ => Report::Closed,
        })
    }
}

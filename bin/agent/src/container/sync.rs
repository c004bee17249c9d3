//! Between the agent and a child that is becoming a container: packets on a
//! socket pair, with the pty's master beside one.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::error::{Error, ErrorKind, Result, Tried};
use crate::fd::AsyncFile;

/// The agent did what only it can do.
pub(super) const PROCEED: u8 = b'P';
/// The command may be executed.
pub(super) const GO: u8 = b'G';
const READY: u8 = b'R';
const FAILED: u8 = b'F';
const PID: u8 = b'N';

/// A new process that is silent for so long is given up.
const ANSWER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

/// What is tried when one listens.
const LISTEN: &str = "listen between agent and container";

/// Longest packet, bytes.
const PACKET_LIMIT: usize = 4096;

/// The child's end, which waits with all of its process.
#[derive(Debug)]
pub(super) struct Channel {
    fd: OwnedFd,
}

/// The agent's end. Only its user waits by it: others may start processes
/// meanwhile, however long this one takes.
#[derive(Debug)]
pub(super) struct Answers {
    file: AsyncFile,
}

/// Both ends. The agent's becomes [`Answers`] after the fork.
pub(super) fn pair() -> Result<(OwnedFd, Channel)> {
    let (one, two) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .tried(|| "make a socket pair".to_owned())?;
    Ok((one, Channel { fd: two }))
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Channel {
    /// Waits for a word; anything else is the end.
    pub(super) fn wait(&self, word: u8) -> Result<()> {
        match self.receive()? {
            (bytes, _) if bytes.first() == Some(&word) => Ok(()),
            _ => Err(Error::other("the agent gave the container up")),
        }
    }

    /// The child is set up.
    pub(super) fn ready(&self, terminal: Option<&OwnedFd>) -> Result<()> {
        self.packet(&[READY], terminal)
    }

    /// The child failed. Best effort: a seccomp filter may be in place.
    pub(super) fn fail(&self, error: &Error) {
        let text = error.to_string();
        let mut bytes = vec![FAILED, error.kind() as u8];
        bytes.extend(text.bytes().take(PACKET_LIMIT - 2));
        let _ = self.packet(&bytes, None);
    }

    /// Tells the pid of the grandchild.
    pub(super) fn send_pid(&self, pid: i32) -> Result<()> {
        let mut bytes = vec![PID];
        bytes.extend(pid.to_ne_bytes());
        self.packet(&bytes, None)
    }

    fn packet(&self, bytes: &[u8], fd: Option<&OwnedFd>) -> Result<()> {
        send(self.fd.as_fd(), bytes, fd)
    }

    fn receive(&self) -> Result<Packet> {
        let received = loop {
            match receive(self.fd.as_fd()) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        received.tried(|| LISTEN.to_owned())
    }
}

impl Answers {
    /// Not before the fork: a child that closes what the agent polls stops the
    /// agent's polling, for the two share it. epoll_ctl(2).
    pub(super) fn of(fd: OwnedFd) -> Result<Self> {
        let file = AsyncFile::new(fd).tried(|| LISTEN.to_owned())?;
        Ok(Self { file })
    }

    /// Sends a word.
    pub(super) fn send(&self, word: u8) -> Result<()> {
        send(self.file.as_fd(), &[word], None)
    }

    /// Waits for the pid of the grandchild.
    pub(super) async fn expect_pid(&self) -> Result<i32> {
        match self.receive().await? {
            (bytes, _) if bytes.len() == 5 && bytes[0] == PID => {
                Ok(i32::from_ne_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]))
            }
            (bytes, _) => Err(failure(&bytes)),
        }
    }

    /// Waits until the child is set up.
    pub(super) async fn expect_ready(&self) -> Result<Option<OwnedFd>> {
        match self.receive().await? {
            (bytes, fd) if bytes.first() == Some(&READY) => Ok(fd),
            (bytes, _) => Err(failure(&bytes)),
        }
    }

    /// Waits for execve: it closes the child's end.
    pub(super) async fn expect_exec(&self) -> Result<()> {
        match self.receive().await? {
            (bytes, _) if bytes.is_empty() => Ok(()),
            (bytes, _) => Err(failure(&bytes)),
        }
    }

    /// A child that hangs is given up.
    async fn receive(&self) -> Result<Packet> {
        let received = self.file.when_readable(receive);
        match tokio::time::timeout(ANSWER_TIMEOUT, received).await {
            Ok(received) => received.tried(|| LISTEN.to_owned()),
            Err(_) => Err(Error::other(format!(
                "the new process did not answer within {} s",
                ANSWER_TIMEOUT.as_secs()
            ))),
        }
    }
}

/// Bytes, and a descriptor that may have come with them.
type Packet = (Vec<u8>, Option<OwnedFd>);

fn send(to: BorrowedFd<'_>, bytes: &[u8], fd: Option<&OwnedFd>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = fd.into_iter().map(AsFd::as_fd).collect();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let slices = &[IoSlice::new(bytes)];
    sendmsg(to, slices, &mut control, SendFlags::NOSIGNAL)
        .tried(|| "talk between agent and container".to_owned())
        .map(|_| ())
}

fn receive(from: BorrowedFd<'_>) -> std::io::Result<Packet> {
    let mut bytes = vec![0; PACKET_LIMIT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let slices = &mut [IoSliceMut::new(&mut bytes)];
    let received = match recvmsg(from, slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
        Ok(received) => received.bytes,
        // A child killed with unread packets resets the connection.
        Err(rustix::io::Errno::CONNRESET) => 0,
        Err(error) => return Err(error.into()),
    };
    bytes.truncate(received);
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok((bytes, fd))
}

fn failure(bytes: &[u8]) -> Error {
    match bytes {
        [FAILED, kind, text @ ..] => {
            Error::new(ErrorKind::from_byte(*kind), String::from_utf8_lossy(text))
        }
        _ => Error::other("the process died while it was being set up"),
    }
}

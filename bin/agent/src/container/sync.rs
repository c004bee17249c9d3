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

/// The agent did what only it can do.
pub(super) const PROCEED: u8 = b'P';
/// The command may be executed.
pub(super) const GO: u8 = b'G';
const READY: u8 = b'R';
const FAILED: u8 = b'F';
const PID: u8 = b'N';

/// A new process that is silent for so long is given up.
const ANSWER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

/// Longest packet, bytes.
const PACKET_LIMIT: usize = 4096;

/// One end.
#[derive(Debug)]
pub(super) struct Channel {
    fd: OwnedFd,
}

/// Both ends.
pub(super) fn pair() -> Result<(Channel, Channel)> {
    let (one, two) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .tried(|| "make a socket pair".to_owned())?;
    // The agent's end: a child that hangs must not take the agent with it.
    let which = rustix::net::sockopt::Timeout::Recv;
    rustix::net::sockopt::set_socket_timeout(&one, which, Some(ANSWER_TIMEOUT))
        .tried(|| "limit the wait for a new process".to_owned())?;
    Ok((Channel { fd: one }, Channel { fd: two }))
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Channel {
    /// Sends a word.
    pub(super) fn send(&self, word: u8) -> Result<()> {
        self.packet(&[word], None)
    }

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

    /// Waits for the pid of the grandchild.
    pub(super) fn expect_pid(&self) -> Result<i32> {
        match self.receive()? {
            (bytes, _) if bytes.len() == 5 && bytes[0] == PID => {
                Ok(i32::from_ne_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]))
            }
            (bytes, _) => Err(failure(&bytes)),
        }
    }

    /// Waits until the child is set up.
    pub(super) fn expect_ready(&self) -> Result<Option<OwnedFd>> {
        match self.receive()? {
            (bytes, fd) if bytes.first() == Some(&READY) => Ok(fd),
            (bytes, _) => Err(failure(&bytes)),
        }
    }

    /// Waits for execve: it closes the child's end.
    pub(super) fn expect_exec(&self) -> Result<()> {
        match self.receive()? {
            (bytes, _) if bytes.is_empty() => Ok(()),
            (bytes, _) => Err(failure(&bytes)),
        }
    }

    fn packet(&self, bytes: &[u8], fd: Option<&OwnedFd>) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<_> = fd.into_iter().map(AsFd::as_fd).collect();
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        sendmsg(
            &self.fd,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
        .tried(|| "talk between agent and container".to_owned())
        .map(|_| ())
    }

    fn receive(&self) -> Result<(Vec<u8>, Option<OwnedFd>)> {
        let mut bytes = vec![0; PACKET_LIMIT];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let slices = &mut [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.fd, slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                // A child killed with unread packets resets the connection.
                Err(rustix::io::Errno::CONNRESET) => break 0,
                other => {
                    break other
                        .tried(|| "listen between agent and container".to_owned())?
                        .bytes;
                }
            }
        };
        bytes.truncate(received);
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        Ok((bytes, fd))
    }
}

fn failure(bytes: &[u8]) -> Error {
    match bytes {
        [FAILED, kind, text @ ..] => {
            Error::new(ErrorKind::from_byte(*kind), String::from_utf8_lossy(text))
        }
        _ => Error::other("the process died while it was being set up"),
    }
}

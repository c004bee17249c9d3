//! Packets with descriptors, blocking and async.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;

/// Name of the socket in a directory.
pub const SOCKET: &str = "control.sock";

/// Longest packet, bytes: an exec's environment has to fit.
const PACKET_LIMIT: usize = 128 << 10;

/// Descriptors beside a packet at most.
const FD_LIMIT: usize = 3;

/// Clients waiting to be accepted.
const BACKLOG: i32 = 64;

fn new_socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// The address of `name` in a directory, however long the directory's path:
/// an address has 108 bytes, an open directory a number.
fn address(dir: BorrowedFd<'_>, name: &str) -> io::Result<SocketAddrUnix> {
    use std::os::fd::AsRawFd;
    Ok(SocketAddrUnix::new(format!(
        "/proc/self/fd/{}/{name}",
        dir.as_raw_fd()
    ))?)
}

fn open_dir(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, Mode::empty())?)
}

fn send_packet(
    socket: impl AsFd,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > PACKET_LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "the request is {} bytes long, more than {PACKET_LIMIT}",
                bytes.len()
            ),
        ));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FD_LIMIT))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors",
        ));
    }
    sendmsg(
        socket,
        &[IoSlice::new(&bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// `None` is the end.
fn receive_packet<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; PACKET_LIMIT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FD_LIMIT))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        flags,
    )?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(&bytes[..received.bytes])
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(Some((message, fds)))
}

/// A client's end; blocks.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// Connects to who listens in `dir`.
    ///
    /// # Errors
    /// When nobody does.
    pub fn connect(dir: &Path) -> io::Result<Self> {
        let fd = new_socket()?;
        let dir = open_dir(dir)?;
        rustix::net::connect(&fd, &address(dir.as_fd(), SOCKET)?)?;
        Ok(Self { fd })
    }

    /// A connected pair: the second end is for a supervisor about to be born.
    ///
    /// # Errors
    /// When the kernel has no room.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self { fd: ours }, theirs))
    }

    /// Sends a message, with at most three descriptors.
    ///
    /// # Errors
    /// When it is too long or nobody is there.
    pub fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        send_packet(&self.fd, message, fds)
    }

    /// Waits for a message; `None` is the end.
    ///
    /// # Errors
    /// When what comes is no such message.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        Ok(receive_packet(&self.fd)?.map(|(message, _)| message))
    }
}

/// The end of who holds the machine.
#[derive(Debug)]
pub struct AsyncSocket {
    fd: AsyncFd<OwnedFd>,
}

impl AsyncSocket {
    /// Takes a connected socket over.
    ///
    /// # Errors
    /// When it cannot be waited for.
    #[expect(
        deprecated,
        reason = "an OwnedFd keeps its descriptor, which is all `register` asks for"
    )]
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            fd: AsyncFd::new(fd)?,
        })
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When it is too long or nobody is there.
    pub async fn send(&self, message: &impl Serialize) -> io::Result<()> {
        loop {
            let mut ready = self.fd.writable().await?;
            match ready.try_io(|fd| send_packet(fd.get_ref(), message, &[])) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// Waits for a message and its descriptors; `None` is the end.
    ///
    /// # Errors
    /// When what comes is no such message.
    pub async fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        loop {
            let mut ready = self.fd.readable().await?;
            match ready.try_io(|fd| receive_packet(fd.get_ref())) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}

/// Where clients come in.
#[derive(Debug)]
pub struct Listener {
    fd: AsyncFd<OwnedFd>,
}

impl Listener {
    /// Listens in a directory, replacing a dead socket. Only its owner may
    /// connect.
    ///
    /// # Errors
    /// When the socket cannot be made.
    #[expect(
        deprecated,
        reason = "an OwnedFd keeps its descriptor, which is all `register` asks for"
    )]
    pub fn bind(dir: &Path) -> io::Result<Self> {
        let _ = std::fs::remove_file(dir.join(SOCKET));
        let fd = new_socket()?;
        let dir = open_dir(dir)?;
        rustix::net::bind(&fd, &address(dir.as_fd(), SOCKET)?)?;
        let owner = Mode::RUSR | Mode::WUSR;
        rustix::fs::chmodat(&dir, SOCKET, owner, AtFlags::empty())?;
        rustix::net::listen(&fd, BACKLOG)?;
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            fd: AsyncFd::new(fd)?,
        })
    }

    /// Waits for a command.
    ///
    /// # Errors
    /// When no more can come.
    pub async fn accept(&self) -> io::Result<AsyncSocket> {
        loop {
            let mut ready = self.fd.readable().await?;
            let accept = |fd: &AsyncFd<OwnedFd>| {
                Ok(rustix::net::accept_with(
                    fd.get_ref(),
                    SocketFlags::CLOEXEC,
                )?)
            };
            match ready.try_io(accept) {
                Ok(fd) => return AsyncSocket::new(fd?),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Call, Request};

    #[tokio::test]
    async fn a_request_travels_with_its_descriptors() {
        let (client, server) = Socket::pair().unwrap();
        let server = AsyncSocket::new(server).unwrap();
        let call = Call {
            number: 7,
            request: Request::Stats,
        };
        client
            .send(&call, &[io::stdin().as_fd(), io::stdout().as_fd()])
            .unwrap();
        let (got, fds) = server.receive::<Call>().await.unwrap().unwrap();
        assert_eq!((got.number, fds.len()), (7, 2));
        drop(client);
        assert!(server.receive::<Call>().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_directory_with_a_long_path_can_be_listened_in() {
        let temp = tempfile::tempdir().unwrap();
        let long = temp.path().join("d".repeat(150));
        std::fs::create_dir(&long).unwrap();
        let listener = Listener::bind(&long).unwrap();
        let client = Socket::connect(&long).unwrap();
        let server = listener.accept().await.unwrap();
        server.send(&1u32).await.unwrap();
        assert_eq!(client.receive::<u32>().unwrap(), Some(1));
    }

    #[test]
    fn a_request_that_is_too_long_is_refused() {
        let (client, _server) = Socket::pair().unwrap();
        let text = client
            .send(&"x".repeat(PACKET_LIMIT), &[])
            .unwrap_err()
            .to_string();
        assert!(text.contains("more than"), "{text}");
    }
}

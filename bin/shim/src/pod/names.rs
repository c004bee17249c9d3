//! Names of docker's networks: what the guest asks at the address of docker's name server
//! is asked of that server, in the container's network namespace.

use std::io;
use std::net::{SocketAddrV4, UdpSocket as StdSocket};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bulkhead_protocol::datagram::Datagram;
use bulkhead_protocol::mux::Stream;
use bulkhead_provision::network::{self, RESOLVER};
use bulkhead_sandbox::Sandbox;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UdpSocket;

use crate::failure::{Failure, Outcome};

/// Questions that wait for an answer; the oldest make room.
const WAITING: usize = 512;

/// Bytes of a message's number, which come first. RFC 1035, 4.1.1.
const NUMBER: usize = 2;

/// Longest answer.
const ANSWER: usize = 65_535;

/// Carries questions and answers from now on, until the machine ends; nothing where the
/// namespace has no such name server.
pub(super) async fn serve(sandbox: &Sandbox, namespace: &Path) -> Outcome<()> {
    let found = network::resolver(namespace).map_err(|error| Failure::from_error(&error))?;
    let Some(socket) = found else {
        return Ok(());
    };
    let Some(stream) = sandbox.resolve(RESOLVER).await? else {
        tracing::warn!("the guest has a name server of its own at {RESOLVER}");
        return Ok(());
    };
    tokio::spawn(async move {
        if let Err(error) = carry(socket, stream).await {
            tracing::debug!(%error, "names of docker's networks are not asked for any more");
        }
    });
    Ok(())
}

async fn carry(socket: StdSocket, stream: Stream) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket)?;
    let (mut questions, mut answers) = tokio::io::split(stream);
    let waiting = Mutex::new(Waiting::default());
    tokio::select! {
        ended = ask(&socket, &mut questions, &waiting) => ended,
        ended = tell(&socket, &mut answers, &waiting) => ended,
    }
}

async fn ask(
    socket: &UdpSocket,
    questions: &mut (impl AsyncRead + Unpin),
    waiting: &Mutex<Waiting>,
) -> io::Result<()> {
    loop {
        let Datagram { client, mut bytes } = Datagram::read(questions).await?;
        let asked = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ask(client, &mut bytes);
        if asked {
            // A server that is not there is asked again.
            let _ = socket.send(&bytes).await;
        }
    }
}

async fn tell(
    socket: &UdpSocket,
    answers: &mut (impl AsyncWrite + Unpin),
    waiting: &Mutex<Waiting>,
) -> io::Result<()> {
    let mut buffer = vec![0; ANSWER];
    loop {
        let Ok(length) = socket.recv(&mut buffer).await else {
            continue;
        };
        let bytes = &mut buffer[..length];
        let client = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .answer(bytes);
        if let Some(client) = client {
            let bytes = bytes.to_vec();
            Datagram { client, bytes }.write(answers).await?;
        }
    }
}

/// Who waits for which answer. Clients number their questions alike, so that on the way
/// each has another number.
#[derive(Debug, Default)]
struct Waiting {
    next: u16,
    asked: std::collections::HashMap<u16, (SocketAddrV4, [u8; NUMBER])>,
}

impl Waiting {
    /// Notes a question and gives it its number. False: it is none.
    fn ask(&mut self, client: SocketAddrV4, question: &mut [u8]) -> bool {
        let Some(number) = question.first_chunk_mut::<NUMBER>() else {
            return false;
        };
        self.asked.insert(self.next, (client, *number));
        let oldest = self.next.wrapping_sub(WAITING as u16);
        self.asked.remove(&oldest);
        *number = self.next.to_be_bytes();
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Gives an answer the number of its question; who asked it.
    fn answer(&mut self, answer: &mut [u8]) -> Option<SocketAddrV4> {
        let number = answer.first_chunk_mut::<NUMBER>()?;
        let (client, asked) = self.asked.remove(&u16::from_be_bytes(*number))?;
        *number = asked;
        Some(client)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn client(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
    }

    #[test]
    fn everybody_gets_the_answer_to_their_own_question() {
        let mut waiting = Waiting::default();
        let (mut first, mut second) = (*b"\x12\x34a", *b"\x12\x34b");
        assert!(waiting.ask(client(1), &mut first) && waiting.ask(client(2), &mut second));
        assert_ne!(first[..2], second[..2]);
        assert_eq!(waiting.answer(&mut second), Some(client(2)));
        assert_eq!(&second, b"\x12\x34b");
        assert_eq!(waiting.answer(&mut first), Some(client(1)));
        // Once, and not what nobody asked.
        assert_eq!(waiting.answer(&mut [0, 1]), None);
        assert_eq!(waiting.answer(&mut [0]), None);
        assert!(!waiting.ask(client(3), &mut [0]));
    }

    #[test]
    fn who_asks_without_end_has_the_oldest_forgotten() {
        let mut waiting = Waiting::default();
        for port in 0..=u16::MAX {
            assert!(waiting.ask(client(port), &mut [0, 0]));
            assert!(waiting.asked.len() <= WAITING);
        }
    }
}

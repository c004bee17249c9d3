//! A name server of the host's side, at an address of the guest's loopback interface.
//!
//! docker's own is at 127.0.0.11 of the container's network namespace, where only its
//! host can ask it. What is asked here is carried there, and who asked is kept by the
//! host.

use std::io;
use std::net::SocketAddr;

use bulkhead_protocol::datagram::Datagram;
use bulkhead_protocol::mux::Stream;
use bulkhead_protocol::stream::{self, Header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UdpSocket;

/// Where names are asked for. RFC 1035, 4.2.1.
const DOMAIN: u16 = 53;

/// Longest question: what EDNS lets be asked for at most, RFC 6891, 6.2.5.
const QUESTION: usize = 4096;

/// Carries questions and answers until the host ends it.
pub(crate) async fn carry(header: &Header, mut stream: Stream) {
    let socket = match header.resolver_address() {
        Some(address) => UdpSocket::bind((address, DOMAIN)).await.ok(),
        None => None,
    };
    let told = stream::answer(&mut stream, socket.is_some()).await;
    if let (Some(socket), Ok(())) = (socket, told) {
        let (mut answers, mut questions) = tokio::io::split(stream);
        // How it ends is for the host to know.
        tokio::select! {
            _ = ask(&socket, &mut questions) => {}
            _ = tell(&socket, &mut answers) => {}
        }
    }
}

async fn ask(socket: &UdpSocket, questions: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; QUESTION];
    loop {
        // A client that is gone is told of by an error here.
        let Ok((length, SocketAddr::V4(client))) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let bytes = buffer[..length].to_vec();
        Datagram { client, bytes }.write(questions).await?;
    }
}

async fn tell(socket: &UdpSocket, answers: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    loop {
        let Datagram { client, bytes } = Datagram::read(answers).await?;
        // Who does not wait for it any more asks again.
        let _ = socket.send_to(&bytes, client).await;
    }
}

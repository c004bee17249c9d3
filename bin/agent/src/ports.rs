//! Connections to what listens on the guest's loopback interface.

use std::net::{Ipv4Addr, Ipv6Addr};

use bulkhead_protocol::mux::Stream;
use bulkhead_protocol::stream::{self, Header};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

/// Carries one connection until both sides have ended it.
pub(crate) async fn carry(header: &Header, mut stream: Stream) {
    let connected = match header.port_number() {
        Some(port) => connect(port).await,
        None => None,
    };
    let told = stream::answer(&mut stream, connected.is_some()).await;
    let Some(mut connection) = connected else {
        let _ = stream.shutdown().await;
        return;
    };
    if told.is_ok() {
        // How it ends is for the two to know.
        let _ = copy_bidirectional(&mut stream, &mut connection).await;
    }
}

/// As "localhost" is tried: the old protocol first.
async fn connect(port: u16) -> Option<TcpStream> {
    match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        Ok(connection) => Some(connection),
        Err(_) => TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.ok(),
    }
}

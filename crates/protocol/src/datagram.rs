//! Datagrams on a stream, each with the client it came from or is for.
//!
//! `address of the client (4) | its port (2) | length (2) | bytes`, big-endian

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes before those of the datagram.
const HEADER: usize = 8;

/// One datagram; UDP lets it have 65,507 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it, or gets it.
    pub client: SocketAddrV4,
    /// What is in it.
    pub bytes: Vec<u8>,
}

impl Datagram {
    /// Writes it.
    ///
    /// # Errors
    /// `InvalidInput` for more bytes than 16 bits can tell; whatever the stream reports.
    pub async fn write(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let length = u16::try_from(self.bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut bytes = Vec::with_capacity(HEADER + self.bytes.len());
        bytes.extend(self.client.ip().octets());
        bytes.extend(self.client.port().to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend(&self.bytes);
        stream.write_all(&bytes).await?;
        stream.flush().await
    }

    /// Reads one, of 64 KiB at most.
    ///
    /// # Errors
    /// `UnexpectedEof` at the stream's end; whatever it reports.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let address = Ipv4Addr::from(stream.read_u32().await?);
        let port = stream.read_u16().await?;
        let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut bytes).await?;
        Ok(Self {
            client: SocketAddrV4::new(address, port),
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn datagrams_survive_the_wire_one_after_the_other(
            address in any::<u32>(),
            port in any::<u16>(),
            all in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 1..4),
        ) {
            let client = SocketAddrV4::new(address.into(), port);
            let all: Vec<_> = all.into_iter().map(|bytes| Datagram { client, bytes }).collect();
            let mut wire = Vec::new();
            for datagram in &all {
                block_on(datagram.write(&mut wire)).unwrap();
            }
            let mut rest = wire.as_slice();
            for datagram in all {
                prop_assert_eq!(block_on(Datagram::read(&mut rest)).unwrap(), datagram);
            }
            prop_assert!(block_on(Datagram::read(&mut rest)).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = block_on(Datagram::read(&mut bytes.as_slice()));
        }
    }
}

//! The first bytes of every stream that is not the control connection.
//!
//! `kind (1) | length of container (1) | container | length of exec (1) | exec`

use std::net::Ipv4Addr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::name::{self, NAME_LIMIT};

/// Whose bytes a stream carries, and in which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// The ttrpc connection. Carries no names.
    Control = 1,
    /// Host to guest; closing the host's half is end of file.
    Stdin = 2,
    /// Guest to host.
    Stdout = 3,
    /// Guest to host.
    Stderr = 4,
    /// Both ways: a connection to a port of the guest's loopback interface,
    /// whose number stands in the place of the container. The guest first
    /// answers one byte, [`CONNECTED`] or [`REFUSED`].
    Port = 5,
    /// Both ways: what is asked of a name server at an address of the guest's loopback
    /// interface, which stands in the place of the container, and the answers, each a
    /// [`Datagram`](crate::datagram::Datagram). The guest first answers one byte, like
    /// on [`Port`](Self::Port).
    Resolver = 6,
}

/// Somebody listens on the port, and what follows are its bytes.
pub const CONNECTED: u8 = 1;

/// Nobody listens on the port.
pub const REFUSED: u8 = 0;

/// Answers whether a stream is taken.
///
/// # Errors
/// Whatever the stream reports.
pub async fn answer(stream: &mut (impl AsyncWrite + Unpin), taken: bool) -> std::io::Result<()> {
    let byte = if taken { CONNECTED } else { REFUSED };
    stream.write_all(&[byte]).await?;
    stream.flush().await
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Control,
            Self::Stdin,
            Self::Stdout,
            Self::Stderr,
            Self::Port,
            Self::Resolver,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// Says what a stream is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Header {
    /// Whose bytes follow.
    pub kind: Kind,
    /// Container; empty only on [`Kind::Control`].
    pub container: String,
    /// Exec; empty for the container's first process.
    pub exec: String,
}

/// Why a header is refused.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The stream broke off.
    #[error("the stream ended inside its header")]
    Io(#[source] std::io::Error),
    /// Unknown kind byte.
    #[error("a stream of unknown kind {0} was opened")]
    Kind(u8),
    /// A name breaks the rule.
    #[error("a stream header names no valid container or exec")]
    Name(#[source] name::NameError),
    /// A name is not UTF-8.
    #[error("a stream header is not text")]
    Text,
}

impl Header {
    /// Header of the control connection.
    pub fn control() -> Self {
        Self {
            kind: Kind::Control,
            container: String::new(),
            exec: String::new(),
        }
    }

    /// Header of a connection to a port.
    pub fn port(number: u16) -> Self {
        Self {
            kind: Kind::Port,
            container: number.to_string(),
            exec: String::new(),
        }
    }

    /// The port a connection is for; none for any other kind.
    pub fn port_number(&self) -> Option<u16> {
        let text = (self.kind == Kind::Port).then_some(&self.container)?;
        text.parse().ok()
    }

    /// Header of what is asked of a name server.
    pub fn resolver(address: Ipv4Addr) -> Self {
        Self {
            kind: Kind::Resolver,
            container: address.to_string(),
            exec: String::new(),
        }
    }

    /// Where a name server is to be; none for any other kind, and for an address that
    /// is not the loopback interface's.
    pub fn resolver_address(&self) -> Option<Ipv4Addr> {
        let text = (self.kind == Kind::Resolver).then_some(&self.container)?;
        text.parse().ok().filter(Ipv4Addr::is_loopback)
    }

    /// Wire form.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind as u8];
        for text in [&self.container, &self.exec] {
            debug_assert!(
                text.len() <= NAME_LIMIT,
                "names are checked where they enter"
            );
            bytes.push(text.len().min(NAME_LIMIT) as u8);
            bytes.extend_from_slice(&text.as_bytes()[..text.len().min(NAME_LIMIT)]);
        }
        bytes
    }

    /// Writes the header as the first bytes of a stream.
    ///
    /// # Errors
    /// Whatever the stream reports.
    pub async fn write(&self, stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        stream.write_all(&self.encode()).await?;
        stream.flush().await
    }

    /// Reads a header; reads nothing beyond it.
    ///
    /// # Errors
    /// [`HeaderError`]; the stream is then of no further use.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self, HeaderError> {
        let byte = stream.read_u8().await.map_err(HeaderError::Io)?;
        let kind = Kind::from_byte(byte).ok_or(HeaderError::Kind(byte))?;
        let container = read_text(stream).await?;
        let exec = read_text(stream).await?;
        // The control connection is nobody's; a process may be a container's first.
        if kind != Kind::Control || !container.is_empty() {
            name::check(&container).map_err(HeaderError::Name)?;
        }
        if !exec.is_empty() {
            name::check(&exec).map_err(HeaderError::Name)?;
        }
        Ok(Self {
            kind,
            container,
            exec,
        })
    }
}

async fn read_text(stream: &mut (impl AsyncRead + Unpin)) -> Result<String, HeaderError> {
    // One byte of length bounds the read at 255 bytes; the name check cuts
    // further.
    let length = stream.read_u8().await.map_err(HeaderError::Io)?;
    let mut bytes = vec![0; usize::from(length)];
    stream
        .read_exact(&mut bytes)
        .await
        .map_err(HeaderError::Io)?;
    String::from_utf8(bytes).map_err(|_| HeaderError::Text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_control_header_has_no_long_names_either() {
        let mut bytes = vec![Kind::Control as u8, 200];
        bytes.extend([b'x'; 200]);
        bytes.push(0);
        assert!(read_now(&bytes).is_err());
    }

    #[test]
    fn a_port_is_a_number_of_16_bits() {
        assert_eq!(Header::port(8080).port_number(), Some(8080));
        let (read, _) = read_now(&Header::port(65535).encode()).unwrap();
        assert_eq!(read.port_number(), Some(65535));
        let mut other = Header::port(1);
        other.container = "65536".to_owned();
        assert_eq!(other.port_number(), None);
        assert_eq!(Header::control().port_number(), None);
    }

    #[test]
    fn a_name_server_is_on_the_loopback_interface() {
        let docker = Ipv4Addr::new(127, 0, 0, 11);
        let (read, _) = read_now(&Header::resolver(docker).encode()).unwrap();
        assert_eq!(read.resolver_address(), Some(docker));
        assert_eq!(
            Header::resolver(Ipv4Addr::UNSPECIFIED).resolver_address(),
            None
        );
        assert_eq!(Header::port(53).resolver_address(), None);
    }

    fn read_now(bytes: &[u8]) -> Result<(Header, usize), HeaderError> {
        let mut rest = bytes;
        let header = futures::executor::block_on(Header::read(&mut rest))?;
        Ok((header, bytes.len() - rest.len()))
    }

    proptest! {
        #[test]
        fn a_header_survives_the_wire(
            container in "[a-z0-9][a-zA-Z0-9_.-]{0,60}",
            exec in "([a-z0-9][a-zA-Z0-9_.-]{0,60})?",
            tail in proptest::collection::vec(any::<u8>(), 0..8),
        ) {
            let header = Header { kind: Kind::Stdout, container, exec };
            let mut bytes = header.encode();
            let length = bytes.len();
            bytes.extend(tail);
            let (read, used) = read_now(&bytes).unwrap();
            prop_assert_eq!(read, header);
            prop_assert_eq!(used, length);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok((header, _)) = read_now(&bytes) {
                prop_assert!(header.container.len() <= NAME_LIMIT);
            }
        }
    }
}

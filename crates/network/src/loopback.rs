//! The loopback interface of a network namespace, as seen from its host.
//!
//! Port forwarding connects to `localhost` in a pod's namespace. Nobody listens
//! there: what listens does so on the guest's loopback interface. So every
//! connection to the namespace's is taken, whatever its port, for the caller to
//! carry on. sk_lookup: Documentation/bpf/prog_sk_lookup.rst.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::Error;
use crate::namespace;

/// The connections to a namespace's loopback interface.
#[derive(Debug)]
pub struct Loopback {
    listener: TcpListener,
    /// They come while this is open.
    link: OwnedFd,
}

impl Loopback {
    /// Takes the connections of the namespace at `path`. The port each was made
    /// to is that of its local address. Nothing is left of it when the process
    /// ends.
    ///
    /// # Errors
    /// [`Error::Enter`], [`Error::Loopback`] on kernels before 5.17.
    pub fn take(path: &Path) -> Result<Self, Error> {
        let namespace = namespace::open(path)?;
        let listener = namespace::on_thread(&namespace, listen).flatten();
        let listener = listener.map_err(Error::Loopback)?;
        let link = bulkhead_sys::bpf::take_loopback(listener.as_fd(), namespace.as_fd())
            .map_err(Error::Loopback)?;
        Ok(Self { listener, link })
    }

    /// The socket they arrive at, and what has to be kept open for it.
    pub fn into_parts(self) -> (TcpListener, OwnedFd) {
        (self.listener, self.link)
    }
}

/// For both protocols, where there are both. The port does not matter.
fn listen() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    /// Calls `work` on a thread in a new network namespace.
    fn in_new_namespace(work: impl FnOnce(&Path) + Send) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                bulkhead_sys::namespaces::unshare(false)
                    .expect("namespaces are root's: run the tests as root");
                let tid = rustix::thread::gettid().as_raw_nonzero();
                let path = format!("/proc/{}/task/{tid}/ns/net", std::process::id());
                let up = namespace::inside(Path::new(&path), async |handle| {
                    let up = rtnetlink::LinkUnspec::new_with_index(1).up().build();
                    handle.link().change(up).execute().await.unwrap();
                    Ok(())
                });
                up.unwrap();
                work(Path::new(&path));
            });
        });
    }

    #[test]
    fn a_connection_to_any_port_arrives_and_knows_which() {
        in_new_namespace(|path| {
            let (listener, link) = Loopback::take(path).unwrap().into_parts();
            for address in ["127.0.0.1:80", "127.0.0.1:65000", "[::1]:5432"] {
                let mut client = TcpStream::connect(address).unwrap();
                client.write_all(b"x").unwrap();
                let (mut server, _) = listener.accept().unwrap();
                let asked: std::net::SocketAddr = address.parse().unwrap();
                assert_eq!(server.local_addr().unwrap().port(), asked.port());
                let mut byte = [0];
                server.read_exact(&mut byte).unwrap();
            }
            drop(link);
            assert!(TcpStream::connect("127.0.0.1:80").is_err());
        });
    }
}

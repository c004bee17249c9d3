//! The name server docker has in a container's network namespace, for networks its users
//! made: their containers find each other by name.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;

use crate::{Error, namespace};

/// Where docker tells containers to ask. Rules of the namespace lead to the port it has.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

const DOMAIN: u16 = 53;

/// A socket connected to the name server at [`RESOLVER`] of the namespace at `path`;
/// none where nobody is there.
///
/// # Errors
/// [`Error::Enter`].
pub fn resolver(path: &Path) -> Result<Option<UdpSocket>, Error> {
    let namespace = namespace::open(path)?;
    let found = namespace::on_thread(&namespace, || {
        let sockets = std::fs::read_to_string("/proc/thread-self/net/udp")?;
        match is_bound(&sockets, RESOLVER) {
            true => connect().map(Some),
            false => Ok(None),
        }
    });
    found.flatten().map_err(|source| Error::Enter {
        path: path.to_owned(),
        source,
    })
}

fn connect() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect((RESOLVER, DOMAIN))?;
    Ok(socket)
}

/// Whether a socket of this list has an address, whatever its port. proc_pid_net(5).
fn is_bound(sockets: &str, address: Ipv4Addr) -> bool {
    let wanted = format!("{:08X}", u32::from_ne_bytes(address.octets()));
    let mut local = sockets
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1)?.split_once(':'));
    local.any(|(address, _)| address == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_found_by_its_address() {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 77), 0)).unwrap();
        let sockets = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap();
        assert!(is_bound(&sockets, Ipv4Addr::new(127, 0, 0, 77)));
        assert!(!is_bound(&sockets, Ipv4Addr::new(127, 0, 0, 78)));
        assert!(!is_bound("nonsense\n: :\n", RESOLVER));
        drop(socket);
    }
}

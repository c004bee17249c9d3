//! The interfaces of a network namespace, as devices and as what the guest is
//! told of them.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use bulkhead_hypervisor::{NetBackend, NetDevice};
use bulkhead_network::Guard;
pub use bulkhead_network::{Loopback, RESOLVER, Routing};
use bulkhead_sandbox::{Interface, Network};

use crate::Error;

/// A joined namespace.
#[derive(Debug, Default)]
pub struct Joined {
    /// For the monitor.
    pub devices: Vec<NetDevice>,
    /// For the agent.
    pub interfaces: Vec<Interface>,
    /// For the agent.
    pub routing: Routing,
    /// Gives the namespace back when dropped.
    pub guard: Option<Guard>,
}

/// Joins the namespace at `path`, as its network plugin set it up, for the
/// sandbox `owner` with so many processors: each has its own queue.
///
/// # Errors
/// [`Error::Network`]; the namespace is as it was then.
pub fn join(path: &Path, owner: &str, vcpus: u32) -> Result<Joined, Error> {
    let joined = bulkhead_network::join(path, owner, vcpus)?;
    let mut all = Joined {
        routing: joined.routing,
        guard: Some(joined.guard),
        ..Joined::default()
    };
    for (interface, tap) in joined.interfaces.into_iter().zip(joined.taps) {
        all.devices.push(NetDevice {
            mac: interface.mac,
            mtu: u16::try_from(interface.mtu).unwrap_or(u16::MAX),
            backend: NetBackend::Tap(tap),
        });
        all.interfaces.push(Interface {
            mac: mac_text(interface.mac),
            name: interface.name,
            mtu: interface.mtu,
            addresses: texts(&interface.addresses),
            ..Default::default()
        });
    }
    Ok(all)
}

fn texts(addresses: &[(IpAddr, u8)]) -> Vec<String> {
    let texts = addresses.iter();
    texts
        .map(|(address, prefix)| format!("{address}/{prefix}"))
        .collect()
}

/// Hardware address of a device whose network comes later: of our own making, until it
/// gets that of the interface it is joined to.
fn spare_mac(number: usize) -> [u8; 6] {
    let [.., low] = number.to_be_bytes();
    [0x02, 0x62, 0x6b, 0xff, 0x00, low]
}

/// Devices for a namespace whose interfaces will come after its sandbox.
///
/// # Errors
/// [`Error::Network`]; the namespace is as it was then.
pub fn reserve(path: &Path, owner: &str, vcpus: u32) -> Result<Joined, Error> {
    let reserved = bulkhead_network::reserve(path, owner, vcpus)?;
    let devices = reserved.taps.into_iter().enumerate();
    let device = |(number, tap)| NetDevice {
        mac: spare_mac(number),
        // No interface has larger packets.
        mtu: u16::MAX,
        backend: NetBackend::Tap(tap),
    };
    Ok(Joined {
        devices: devices.map(device).collect(),
        guard: Some(reserved.guard),
        ..Joined::default()
    })
}

/// Joins the interfaces that have come since to these devices; what the agent is to be
/// told of them, and of the devices nobody came for.
///
/// # Errors
/// [`Error::Network`]; the namespace is as it was then.
pub fn connect(path: &Path, owner: &str) -> Result<Network, Error> {
    let (interfaces, routing) = bulkhead_network::connect(path, owner)?;
    let interfaces = interfaces.into_iter().enumerate();
    let interface = |(number, own): (usize, bulkhead_network::Interface)| Interface {
        mac: mac_text(spare_mac(number)),
        new_mac: mac_text(own.mac),
        name: own.name,
        mtu: own.mtu,
        addresses: texts(&own.addresses),
        ..Default::default()
    };
    let interfaces: Vec<_> = interfaces.map(interface).collect();
    let unused = interfaces.len()..bulkhead_network::SPARES;
    Ok(Network {
        unused: unused.map(|number| mac_text(spare_mac(number))).collect(),
        ..told(interfaces, routing)
    })
}

/// What the agent is told of a network.
pub fn told(interfaces: Vec<Interface>, routing: Routing) -> Network {
    Network {
        interfaces,
        routes: routing.routes,
        rules: routing.rules,
        neighbours: routing.neighbours,
        ..Default::default()
    }
}

/// The name server docker has in the namespace at `path`, for who is at
/// [`RESOLVER`]; none where there is none.
///
/// # Errors
/// [`Error::Network`].
pub fn resolver(path: &Path) -> Result<Option<UdpSocket>, Error> {
    Ok(bulkhead_network::resolver(path)?)
}

/// Does the namespace merely have no interface?
pub fn is_empty(error: &Error) -> bool {
    matches!(error, Error::Network(bulkhead_network::Error::Empty { .. }))
}

/// Gives back a namespace whose owner was killed.
///
/// # Errors
/// [`Error::Network`].
pub fn release(path: &Path, owner: &str) -> Result<(), Error> {
    Ok(bulkhead_network::release(path, owner)?)
}

/// A hardware address as people and the agent write it, "02:62:6b:00:00:01".
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

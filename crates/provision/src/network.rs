//! The interfaces of a network namespace, as devices and as what the guest is
//! told of them.

use std::path::Path;

use bulkhead_hypervisor::{NetBackend, NetDevice};
use bulkhead_network::Guard;
pub use bulkhead_network::{Loopback, Routing};
use bulkhead_sandbox::{GuestConfig, Interface};

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
    for interface in joined.interfaces {
        let addresses = interface.addresses.iter();
        all.interfaces.push(Interface {
            mac: mac_text(interface.mac),
            name: interface.name,
            mtu: interface.mtu,
            addresses: addresses
                .map(|(address, prefix)| format!("{address}/{prefix}"))
                .collect(),
            ..Default::default()
        });
        all.devices.push(NetDevice {
            mac: interface.mac,
            mtu: u16::try_from(interface.mtu).unwrap_or(u16::MAX),
            backend: NetBackend::Tap(interface.tap),
        });
    }
    Ok(all)
}

/// What the agent is told of a network.
pub fn told(interfaces: Vec<Interface>, routing: Routing) -> GuestConfig {
    GuestConfig {
        interfaces,
        routes: routing.routes,
        rules: routing.rules,
        neighbours: routing.neighbours,
        ..Default::default()
    }
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

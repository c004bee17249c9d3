//! Interfaces, addresses and routes, as the host says. rtnetlink(7).

mod routing;

use std::net::IpAddr;
use std::path::Path;

use bulkhead_protocol::agent::{Interface, InterfaceStats, Network};
use futures::TryStreamExt;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};

use crate::virtio;

/// Interfaces or addresses in one request at most.
const ITEM_LIMIT: usize = 256;

/// Where interfaces are, and who drives their devices.
const INTERFACES: &str = "/sys/class/net";
const DRIVER: &str = "virtio_net";

/// What an interface is called until it gets its name; the kernel puts a free number
/// there.
const AWAY: &str = "moved%d";

/// Why the network could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("a netlink socket could not be had")]
    Socket(#[source] std::io::Error),
    #[error("the kernel refused: {what}")]
    Refused {
        what: String,
        #[source]
        source: Box<rtnetlink::Error>,
    },
    #[error("no interface has the hardware address `{0}`")]
    NoInterface(String),
    #[error("`{0}` is not an address with a prefix length")]
    Address(String),
    #[error("the device of the interface `{name}` could not be given back")]
    Device {
        name: String,
        #[source]
        source: std::io::Error,
    },
    #[error("`{0}` is not a hardware address")]
    Mac(String),
    #[error("more than {ITEM_LIMIT} interfaces or addresses")]
    TooMany,
    #[error("a {0} of the request is not one, or of an interface the request does not have")]
    Entry(&'static str),
    #[error("more than {limit} routes, rules or neighbours", limit = routing::LIMIT)]
    TooManyEntries,
}

fn refused(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    let what = what.into();
    move |source| Error::Refused {
        what,
        source: Box::new(source),
    }
}

/// Configures everything a network has, loopback included.
pub(crate) async fn configure(network: &Network) -> Result<(), Error> {
    let addresses: usize = network.interfaces.iter().map(|i| i.addresses.len()).sum();
    let items = network.interfaces.len().max(network.unused.len());
    if items.max(addresses) > ITEM_LIMIT {
        return Err(Error::TooMany);
    }
    let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Socket)?;
    let driver = tokio::spawn(connection);
    let outcome = apply(&handle, network).await;
    driver.abort();
    outcome
}

async fn apply(handle: &Handle, network: &Network) -> Result<(), Error> {
    let links = handle.link().get().execute().try_collect().await;
    let mut links: Vec<LinkMessage> = links.map_err(refused("list interfaces"))?;
    let is_unused =
        |link: &LinkMessage| mac_of(link).is_some_and(|mac| network.unused.contains(&mac));
    for link in links.iter().filter(|link| is_unused(link)) {
        forget(link)?;
    }
    links.retain(|link| !is_unused(link));
    change(handle, LinkUnspec::new_with_index(1)).await?;
    for link in in_the_way(&links, &network.interfaces) {
        let away = LinkUnspec::new_with_index(link).name(AWAY.to_owned());
        let moved = handle.link().set(away.build()).execute().await;
        moved.map_err(refused("rename an interface"))?;
    }
    let mut indexes = Vec::new();
    for interface in &network.interfaces {
        indexes.push(set_up(handle, &links, interface).await?);
    }
    routing::add(handle, &indexes, network).await
}

/// Takes an interface's device from its driver: it is one no more.
fn forget(link: &LinkMessage) -> Result<(), Error> {
    let name = name_of(link).unwrap_or_default();
    let device = virtio::device(&Path::new(INTERFACES).join(name));
    let device = device.ok_or_else(|| std::io::ErrorKind::NotFound.into());
    let unbound = device.and_then(|device| virtio::drive(DRIVER, "unbind", &device));
    unbound.map_err(|source| Error::Device {
        name: name.to_owned(),
        source,
    })
}

/// Interfaces whose names others are to have: the kernel counts its own in the order
/// it finds them.
fn in_the_way(links: &[LinkMessage], wanted: &[Interface]) -> Vec<u32> {
    let others = links.iter().filter(|link| {
        let (name, mac) = (name_of(link), mac_of(link).unwrap_or_default());
        wanted
            .iter()
            .any(|own| Some(own.name.as_str()) == name && own.mac != mac)
    });
    others.map(|link| link.header.index).collect()
}

async fn set_up(handle: &Handle, links: &[LinkMessage], wanted: &Interface) -> Result<u32, Error> {
    let index = links
        .iter()
        .find(|link| mac_of(link).as_deref() == Some(wanted.mac.as_str()))
        .map(|link| link.header.index)
        .ok_or_else(|| Error::NoInterface(wanted.mac.clone()))?;
    let mut wish = LinkUnspec::new_with_index(index).name(wanted.name.clone());
    if wanted.mtu > 0 {
        wish = wish.mtu(wanted.mtu);
    }
    if !wanted.new_mac.is_empty() {
        wish = wish.address(parse_mac(&wanted.new_mac)?);
    }
    change(handle, wish).await?;
    for text in &wanted.addresses {
        let (address, prefix) = parse_prefix(text)?;
        let mut request = handle.address().add(index, address, prefix);
        // The host chose it, so nobody else has it; the search for another
        // would keep it from use for a second or two.
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request
            .execute()
            .await
            .map_err(refused(format!("add the address {text}")))?;
    }
    Ok(index)
}

/// Changes an interface as wished, and brings it up.
async fn change(handle: &Handle, wish: LinkMessageBuilder<LinkUnspec>) -> Result<(), Error> {
    let wish = wish.build();
    let index = wish.header.index;
    // A new name or hardware address needs the interface down, so this comes before
    // the `up`.
    let set = handle.link().set(wish).execute().await;
    set.map_err(refused("change an interface"))?;
    let up = LinkUnspec::new_with_index(index).up().build();
    let set = handle.link().set(up).execute().await;
    set.map_err(refused("bring an interface up"))
}

fn parse_mac(text: &str) -> Result<Vec<u8>, Error> {
    let is_byte = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let bytes = text.split(':').map(|text| match is_byte(text) {
        true => u8::from_str_radix(text, 16).ok(),
        false => None,
    });
    let bytes: Option<Vec<u8>> = bytes.take(7).collect();
    bytes
        .filter(|bytes| bytes.len() == 6)
        .ok_or_else(|| Error::Mac(text.to_owned()))
}

fn parse_prefix(text: &str) -> Result<(IpAddr, u8), Error> {
    let wrong = || Error::Address(text.to_owned());
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
    let longest = if address.is_ipv6() { 128 } else { 32 };
    if prefix > longest {
        Err(wrong())
    } else {
        Ok((address, prefix))
    }
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    let mut names = link.attributes.iter().filter_map(|own| match own {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    });
    names.next()
}

fn mac_of(link: &LinkMessage) -> Option<String> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) if bytes.len() == 6 => Some(
                bytes
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect::<Vec<_>>()
                    .join(":"),
            ),
            _ => None,
        })
}

/// Counters of every interface but loopback. proc_pid_net(5), `dev`.
pub(crate) fn stats() -> Vec<InterfaceStats> {
    parse_stats(&std::fs::read_to_string("/proc/net/dev").unwrap_or_default())
}

fn parse_stats(text: &str) -> Vec<InterfaceStats> {
    let lines = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    lines
        .filter(|(name, _)| name.trim() != "lo")
        .map(|(name, counters)| {
            let counters: Vec<u64> = counters
                .split_whitespace()
                .map(|n| n.parse().unwrap_or(0))
                .collect();
            let at = |index: usize| counters.get(index).copied().unwrap_or(0);
            InterfaceStats {
                name: name.trim().to_owned(),
                rx_bytes: at(0),
                rx_packets: at(1),
                tx_bytes: at(8),
                tx_packets: at(9),
                ..Default::default()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_anothers_name_is_in_the_way() {
        let link = |index, name: &str, mac: u8| {
            let mut link = LinkMessage::default();
            link.header.index = index;
            link.attributes = vec![
                LinkAttribute::IfName(name.to_owned()),
                LinkAttribute::Address(vec![2, 0, 0, 0, 0, mac]),
            ];
            link
        };
        let wanted = |name: &str, mac: u8| Interface {
            name: name.to_owned(),
            mac: format!("02:00:00:00:00:{mac:02x}"),
            ..Default::default()
        };
        let found = [
            link(2, "eth0", 20),
            link(3, "eth1", 10),
            link(4, "tunl0", 0),
        ];
        let swapped = [wanted("eth0", 10), wanted("eth1", 20)];
        assert_eq!(in_the_way(&found, &swapped), [2, 3]);
        let shifted = [wanted("eth1", 20), wanted("tunl0", 10)];
        assert_eq!(in_the_way(&found, &shifted), [3, 4]);
        let alike = [wanted("eth0", 20), wanted("net1", 10)];
        assert_eq!(in_the_way(&found, &alike), [0u32; 0]);
    }

    #[test]
    fn addresses_need_a_fitting_prefix() {
        assert_eq!(parse_prefix("10.0.2.15/24").unwrap().1, 24);
        assert!(parse_prefix("fe80::1/64").is_ok());
        for wrong in ["10.0.2.15", "10.0.2.15/33", "x/8", "fe80::1/129", "/8"] {
            assert!(parse_prefix(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hardware_addresses_have_six_bytes() {
        assert_eq!(
            parse_mac("02:42:0a:42:00:ff").unwrap(),
            [2, 66, 10, 66, 0, 255]
        );
        for wrong in [
            "",
            "02",
            "02:42:0a:42:00",
            "02:42:0a:42:00:01:02",
            "2:42:0a:42:00:01",
            "+2:42:0a:42:00:01",
        ] {
            assert!(parse_mac(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn counters_are_read_and_loopback_is_not() {
        let text = "h\nh\n    lo: 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n  \
                    eth0: 100 5 0 0 0 0 0 0 200 6 0 0 0 0 0 0\n";
        let stats = parse_stats(text);
        assert_eq!(stats.len(), 1);
        assert_eq!((stats[0].rx_bytes, stats[0].tx_packets), (100, 6));
    }
}

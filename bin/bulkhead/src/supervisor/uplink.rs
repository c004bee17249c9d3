//! The host's interface towards the world, and which families it speaks.

use std::net::{IpAddr, Ipv6Addr};

use super::network::{ADDRESS, ADDRESS_6, NAME_SERVER, NAME_SERVER_6};

/// Link-local addresses of one interface that are looked at.
const ADDRESS_LIMIT: usize = 8;

/// What passt takes as its model.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Uplink {
    pub(super) name: String,
    /// It has a link-local address, which passt needs.
    pub(super) v6: bool,
    /// Those it has. passt takes one for the guest's until it has heard from
    /// the guest's own, so the guest has them, too: nobody else is on its link.
    link_local: Vec<Ipv6Addr>,
    /// The host has a default route for IPv6.
    pub(super) routes_v6: bool,
    /// Families of the host's name servers.
    names: (bool, bool),
}

impl Uplink {
    /// That of this host.
    pub(super) fn find() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self::from_files(
            &read("/proc/net/route"),
            &read("/proc/net/ipv6_route"),
            &read("/proc/net/if_inet6"),
            &read("/etc/resolv.conf"),
        )
    }

    fn from_files(routes: &str, routes_6: &str, addresses_6: &str, names: &str) -> Self {
        let default_4 = routes.lines().skip(1).find_map(|line| {
            let mut fields = line.split_whitespace();
            let name = fields.next()?;
            (fields.next()? == "00000000").then_some(name)
        });
        let default_6 = routes_6.lines().find_map(default_6);
        // A machine without a way out has loopback, which passt refuses by
        // itself with its reason.
        let name = default_4.or(default_6).unwrap_or("lo");
        let of_name = addresses_6
            .lines()
            .filter(|line| line.split_whitespace().next_back() == Some(name));
        let link_local = of_name.filter_map(link_local).take(ADDRESS_LIMIT);
        let link_local: Vec<Ipv6Addr> = link_local.collect();
        let v6 = !link_local.is_empty();
        let servers = names.lines().filter_map(|line| {
            let address = line.trim().strip_prefix("nameserver")?;
            address.trim().split('%').next()?.parse::<IpAddr>().ok()
        });
        let servers: Vec<IpAddr> = servers.collect();
        Self {
            name: name.to_owned(),
            v6,
            link_local,
            routes_v6: v6 && default_6.is_some(),
            names: (
                servers.iter().any(IpAddr::is_ipv4),
                servers.iter().any(IpAddr::is_ipv6),
            ),
        }
    }

    /// The guest's addresses.
    pub(super) fn addresses(&self) -> Vec<String> {
        let mut list = vec![format!("{ADDRESS}/24")];
        list.extend(self.v6.then(|| format!("{ADDRESS_6}/64")));
        list.extend(self.link_local.iter().map(|own| format!("{own}/64")));
        list
    }

    /// Whom the guest asks for names: passt hands questions on to a server of
    /// the same family only.
    pub(super) fn name_servers(&self) -> Vec<String> {
        let (v4, v6) = (self.names.0, self.names.1 && self.v6);
        let mut list = Vec::new();
        list.extend((v4 || !v6).then(|| NAME_SERVER.to_owned()));
        list.extend(v6.then(|| NAME_SERVER_6.to_owned()));
        list
    }
}

/// The link-local address of a line of /proc/net/if_inet6.
fn link_local(line: &str) -> Option<Ipv6Addr> {
    let digits = line.split_whitespace().next()?;
    let address = Ipv6Addr::from(u128::from_str_radix(digits, 16).ok()?);
    address.is_unicast_link_local().then_some(address)
}

/// The interface of a default route of /proc/net/ipv6_route; the kernel lists
/// one over `lo` that says "unreachable", too.
fn default_6(line: &str) -> Option<&str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [to, prefix, .., name] = fields.as_slice() else {
        return None;
    };
    let everywhere = *prefix == "00" && to.bytes().all(|byte| byte == b'0');
    (everywhere && *name != "lo").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: &str = "Iface\tDestination\tGateway\n\
                         eth0\t0002000A\t00000000\neth0\t00000000\t0202000A\n";
    const ROUTE_6: &str = "fd000000000000000000000000000000 40 \
         00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 0 0 1 eth0\n\
         00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
         fd000000000000000000000000000001 00000400 0 0 3 eth0\n\
         00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
         00000000000000000000000000000000 ffffffff 1 0 200200 lo\n";
    const ADDRESSES: &str = "00000000000000000000000000000001 01 80 10 80       lo\n\
         fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n";

    #[test]
    fn a_host_of_both_families_gives_both() {
        let names = "nameserver 192.0.2.53\nnameserver fe80::1%eth0\n";
        let uplink = Uplink::from_files(ROUTE, ROUTE_6, ADDRESSES, names);
        assert_eq!(
            (uplink.name.as_str(), uplink.v6, uplink.routes_v6),
            ("eth0", true, true)
        );
        let own = "fe80::fc:ff:fe00:1/64";
        assert_eq!(uplink.addresses()[2..], [own]);
        assert_eq!(uplink.name_servers(), [NAME_SERVER, NAME_SERVER_6]);
    }

    #[test]
    fn a_host_without_a_way_out_for_ipv6_has_the_address_only() {
        let lo = ROUTE_6.lines().next_back().unwrap();
        let uplink = Uplink::from_files(ROUTE, lo, ADDRESSES, "nameserver 192.0.2.53");
        assert_eq!((uplink.v6, uplink.routes_v6), (true, false));
        assert_eq!(uplink.name_servers(), [NAME_SERVER]);
    }

    #[test]
    fn a_host_of_one_family_gives_one() {
        let four = Uplink::from_files(ROUTE, "", "", "nameserver ::1");
        assert_eq!((four.v6, four.addresses().len()), (false, 1));
        assert_eq!(four.name_servers(), [NAME_SERVER]);
        let six = Uplink::from_files("", ROUTE_6, ADDRESSES, "nameserver 2001:db8::53");
        assert_eq!((six.name.as_str(), six.v6), ("eth0", true));
        assert_eq!(six.name_servers(), [NAME_SERVER_6]);
        assert_eq!(Uplink::from_files("", "", "", "").name, "lo");
    }
}

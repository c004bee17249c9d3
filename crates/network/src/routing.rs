//! Routes, rules and neighbours of a namespace, for a machine whose interfaces
//! have other numbers.
//!
//! They travel as the kernel says them, so that what a plugin set up arrives
//! whole: metrics, sources, tables, several next hops. rtnetlink(7).

use std::net::IpAddr;

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::Emitable;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteProtocol, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};

use crate::redirect::refused;
use crate::{Error, Routing};

/// Entries of one kind that are taken along at most.
const LIMIT: usize = 1024;

const FAMILIES: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];

impl Routing {
    /// A default route by way of `gateway` out of the first interface.
    pub fn add_default(&mut self, gateway: IpAddr) {
        let message = match gateway {
            IpAddr::V4(address) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .gateway(address)
                .output_interface(1)
                .build(),
            IpAddr::V6(address) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .gateway(address)
                .output_interface(1)
                .build(),
        };
        self.routes.push(bytes(&message));
    }
}

/// Numbers of the interfaces that are joined, in the order the guest has them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places<'a>(pub(crate) &'a [u32]);

impl Places<'_> {
    /// Number of an interface's place, from 1.
    fn of(self, index: u32) -> Option<u32> {
        let place = self.0.iter().position(|joined| *joined == index)?;
        u32::try_from(place + 1).ok()
    }
}

/// What there is in the namespace the handle is of.
pub(crate) async fn read(handle: &Handle, places: Places<'_>) -> Result<Routing, Error> {
    let mut routes = Vec::new();
    let mut rules = Vec::new();
    for family in FAMILIES {
        let all = handle.route().get(of_family(&family)).execute();
        let taken = |message| route(message, places);
        routes.extend(collect(all, taken, "routes").await?);
        let all = handle.rule().get(family).execute();
        rules.extend(collect(all, rule, "routing rules").await?);
    }
    let all = handle.neighbours().get().execute();
    let taken = |message| neighbour(message, places);
    let neighbours = collect(all, taken, "neighbours").await?;
    // A gateway may only be reachable by a route to it alone.
    routes.sort_by_key(has_gateway);
    Ok(Routing {
        routes: routes.iter().map(bytes).collect(),
        rules: rules.iter().map(bytes).collect(),
        neighbours: neighbours.iter().map(bytes).collect(),
    })
}

fn of_family(family: &IpVersion) -> RouteMessage {
    match family {
        IpVersion::V4 => RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        IpVersion::V6 => RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    }
}

/// Those that are taken along; only they count against the limit, whatever else a
/// crowded namespace has.
async fn collect<T>(
    all: impl futures_util::Stream<Item = Result<T, rtnetlink::Error>>,
    taken: impl Fn(T) -> Option<T>,
    what: &'static str,
) -> Result<Vec<T>, Error> {
    let chosen = all.try_filter_map(|message| std::future::ready(Ok(taken(message))));
    let some = chosen.take(LIMIT + 1).try_collect::<Vec<T>>().await;
    let some = some.map_err(refused(format!("list {what}")))?;
    match some.len() > LIMIT {
        true => Err(Error::TooManyEntries { what, limit: LIMIT }),
        false => Ok(some),
    }
}

fn bytes(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn has_gateway(message: &RouteMessage) -> bool {
    let by = |attribute: &RouteAttribute| {
        matches!(
            attribute,
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_)
        )
    };
    message.attributes.iter().any(by)
}

/// A route as the guest is to add it; `None` for one its kernel makes by
/// itself, and for one that leads out of an interface that stays here.
fn route(mut message: RouteMessage, places: Places<'_>) -> Option<RouteMessage> {
    let leads = message.header.kind == RouteType::Unicast;
    let ends = matches!(
        message.header.kind,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw
    );
    let made = message.header.protocol == RouteProtocol::Kernel
        || message.header.flags.contains(RouteFlags::Cloned);
    if made || !(leads || ends) {
        return None;
    }
    message.header.flags &= RouteFlags::Onlink;
    let attributes = std::mem::take(&mut message.attributes);
    for attribute in attributes {
        match attribute {
            // One that leads nowhere names the loopback interface.
            RouteAttribute::Oif(_) if ends => {}
            other => message.attributes.extend(carried(other, places)?),
        }
    }
    Some(message)
}

/// An attribute as the guest is to have it. Nothing instead of it for what the
/// kernel tells and is not told; `None` when the route cannot be there.
fn carried(attribute: RouteAttribute, places: Places<'_>) -> Option<Option<RouteAttribute>> {
    use RouteAttribute as A;
    Some(match attribute {
        A::Oif(index) => Some(A::Oif(places.of(index)?)),
        A::Iif(index) => Some(A::Iif(places.of(index)?)),
        A::MultiPath(mut hops) => {
            for hop in &mut hops {
                hop.interface_index = places.of(hop.interface_index)?;
                hop.flags &= RouteNextHopFlags::Onlink;
            }
            Some(A::MultiPath(hops))
        }
        A::Destination(_)
        | A::Source(_)
        | A::PrefSource(_)
        | A::Gateway(_)
        | A::Via(_)
        | A::Priority(_)
        | A::Table(_)
        | A::Metrics(_)
        | A::Preference(_)
        | A::Realm(_) => Some(attribute),
        _ => None,
    })
}

/// A rule somebody added; the kernel's own are in the guest as well.
fn rule(mut message: RuleMessage) -> Option<RuleMessage> {
    let kernels = message
        .attributes
        .contains(&RuleAttribute::Protocol(RouteProtocol::Kernel));
    message.header.flags &= RuleFlags::Invert;
    (!kernels).then_some(message)
}

/// A neighbour somebody settled; the others are found again.
fn neighbour(mut message: NeighbourMessage, places: Places<'_>) -> Option<NeighbourMessage> {
    let family = message.header.family;
    let settled = message.header.state == NeighbourState::Permanent
        && matches!(family, AddressFamily::Inet | AddressFamily::Inet6);
    message.header.ifindex = places.of(message.header.ifindex)?;
    message.attributes.retain(|attribute| {
        matches!(
            attribute,
            NeighbourAttribute::Destination(_) | NeighbourAttribute::LinkLayerAddress(_)
        )
    });
    settled.then_some(message)
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::Parseable;
    use rtnetlink::packet_route::route::{RouteAddress, RouteNextHop};

    use super::*;

    const PLACES: Places<'_> = Places(&[7, 9]);

    fn by(interface: u32) -> RouteMessage {
        RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix([10, 77, 0, 0].into(), 16)
            .gateway([10, 9, 8, 1].into())
            .output_interface(interface)
            .priority(42)
            .pref_source([10, 9, 8, 2].into())
            .build()
    }

    #[test]
    fn a_route_arrives_whole_and_by_the_place_of_its_interface() {
        let mut told = by(9);
        told.header.flags = RouteFlags::Onlink | RouteFlags::Linkdown;
        let arrived = route(told.clone(), PLACES).unwrap();
        assert_eq!(arrived.header.flags, RouteFlags::Onlink);
        let mut wanted = by(2);
        wanted.header.flags = RouteFlags::Onlink;
        assert_eq!(arrived, wanted);
        assert_eq!(RouteMessage::parse(&bytes(&arrived)).unwrap(), wanted);
    }

    #[test]
    fn routes_of_the_kernel_or_of_others_interfaces_stay() {
        let mut own = by(7);
        own.header.protocol = RouteProtocol::Kernel;
        let mut local = by(7);
        local.header.kind = RouteType::Local;
        for staying in [own, local, by(1)] {
            assert_eq!(route(staying, PLACES), None);
        }
    }

    #[test]
    fn a_route_to_nowhere_needs_no_interface() {
        let mut told = by(1);
        told.header.kind = RouteType::BlackHole;
        let arrived = route(told, PLACES).unwrap();
        assert!(
            !arrived
                .attributes
                .iter()
                .any(|a| matches!(a, RouteAttribute::Oif(_)))
        );
    }

    #[test]
    fn of_several_next_hops_each_must_be_there() {
        let hop = |index| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = index;
            hop.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(
                [10, 0, 0, 1].into(),
            ))];
            hop
        };
        let with = |hops| {
            let mut message = by(7);
            message.attributes = vec![RouteAttribute::MultiPath(hops)];
            route(message, PLACES)
        };
        let arrived = with(vec![hop(7), hop(9)]).unwrap();
        assert_eq!(
            arrived.attributes,
            [RouteAttribute::MultiPath(vec![hop(1), hop(2)])]
        );
        assert_eq!(with(vec![hop(7), hop(8)]), None);
    }

    #[test]
    fn rules_of_the_kernel_stay() {
        let with = |protocol| {
            let mut message = RuleMessage::default();
            message.attributes = vec![RuleAttribute::Table(100), RuleAttribute::Protocol(protocol)];
            rule(message).is_some()
        };
        assert!(with(RouteProtocol::Boot));
        assert!(!with(RouteProtocol::Kernel));
    }

    #[test]
    fn neighbours_nobody_settled_are_found_again() {
        let with = |state, index| {
            let mut message = NeighbourMessage::default();
            message.header.family = AddressFamily::Inet;
            message.header.state = state;
            message.header.ifindex = index;
            neighbour(message, PLACES).map(|m| m.header.ifindex)
        };
        assert_eq!(with(NeighbourState::Permanent, 9), Some(2));
        assert_eq!(with(NeighbourState::Reachable, 9), None);
        assert_eq!(with(NeighbourState::Permanent, 1), None);
    }
}

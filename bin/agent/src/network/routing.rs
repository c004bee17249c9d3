//! Routes, rules and neighbours, as the host's kernel said them. rtnetlink(7).

use bulkhead_protocol::agent::Network;
use futures::StreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Parseable,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::rule::RuleMessage;

use super::{Error, refused};

/// Entries of one kind at most.
pub(super) const LIMIT: usize = 1024;

/// Adds what a network has; `indexes` are those of its interfaces.
pub(super) async fn add(handle: &Handle, indexes: &[u32], network: &Network) -> Result<(), Error> {
    let lists = [&network.routes, &network.rules, &network.neighbours];
    if lists.iter().any(|list| list.len() > LIMIT) {
        return Err(Error::TooManyEntries);
    }
    let index = |place: u32| {
        let place = usize::try_from(place).ok()?.checked_sub(1)?;
        indexes.get(place).copied()
    };
    for bytes in &network.routes {
        let route = route(bytes, index).ok_or(Error::Entry("route"))?;
        let what = format!("add the route to `{}`", destination(&route));
        send(handle, RouteNetlinkMessage::NewRoute(route), what).await?;
    }
    for (number, bytes) in (1..).zip(&network.rules) {
        let rule = RuleMessage::parse(bytes.as_slice()).map_err(|_| Error::Entry("rule"))?;
        let what = format!("add the {number}. routing rule of the namespace's own");
        send(handle, RouteNetlinkMessage::NewRule(rule), what).await?;
    }
    for (number, bytes) in (1..).zip(&network.neighbours) {
        let neighbour = neighbour(bytes, index).ok_or(Error::Entry("neighbour"))?;
        let message = RouteNetlinkMessage::NewNeighbour(neighbour);
        let what = format!("add the {number}. permanent neighbour");
        send(handle, message, what).await?;
    }
    Ok(())
}

/// As people write it, for an error.
fn destination(route: &RouteMessage) -> String {
    let to = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(address.to_string()),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(address.to_string()),
            _ => None,
        });
    let length = route.header.destination_prefix_length;
    to.map_or_else(|| "default".to_owned(), |to| format!("{to}/{length}"))
}

fn route(bytes: &[u8], index: impl Fn(u32) -> Option<u32>) -> Option<RouteMessage> {
    let mut route = RouteMessage::parse(bytes).ok()?;
    for attribute in &mut route.attributes {
        match attribute {
            RouteAttribute::Oif(place) | RouteAttribute::Iif(place) => *place = index(*place)?,
            RouteAttribute::MultiPath(hops) => {
                for hop in hops {
                    hop.interface_index = index(hop.interface_index)?;
                }
            }
            _ => {}
        }
    }
    Some(route)
}

fn neighbour(bytes: &[u8], index: impl Fn(u32) -> Option<u32>) -> Option<NeighbourMessage> {
    let mut neighbour = NeighbourMessage::parse(bytes).ok()?;
    neighbour.header.ifindex = index(neighbour.header.ifindex)?;
    Some(neighbour)
}

async fn send(handle: &Handle, body: RouteNetlinkMessage, what: String) -> Result<(), Error> {
    let mut message = NetlinkMessage::from(body);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    let answers = handle.clone().request(message);
    let mut answers = answers.map_err(refused(what.as_str()))?;
    while let Some(answer) = answers.next().await {
        let NetlinkPayload::Error(error) = answer.payload else {
            continue;
        };
        let there = error.raw_code() == -libc::EEXIST;
        if error.code.is_some() && !there {
            return Err(refused(what)(rtnetlink::Error::NetlinkError(error)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rtnetlink::RouteMessageBuilder;
    use rtnetlink::packet_core::Emitable;

    use super::*;

    fn of_interface(place: u32) -> Vec<u8> {
        let message = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .output_interface(place)
            .build();
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    #[test]
    fn interfaces_are_those_of_the_request() {
        let index = |place| (place == 1).then_some(5);
        let found = route(&of_interface(1), index).unwrap();
        assert!(found.attributes.contains(&RouteAttribute::Oif(5)));
        assert_eq!(route(&of_interface(2), index), None);
        assert_eq!(route(&of_interface(0), index), None);
        assert_eq!(route(&[1, 2, 3], index), None);
    }
}

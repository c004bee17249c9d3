//! Interfaces as they are found, and their frames turned to a tap device.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::tc::TcAttribute;
use rtnetlink::{Handle, LinkUnspec, MulticastGroup};

use crate::{Error, Interface, Tap};

/// Marks our filters: nobody's default, so that what others set up is told
/// apart.
const PRIORITY: u16 = 0xb0c4;

/// Beginning of a tap device's name; twelve digits of the owner and a number
/// make it as long as a name can be.
const TAP_NAME: &str = "bh";

/// Queues of an interface at most.
const QUEUE_LIMIT: u32 = 8;

/// How long a killed monitor may take to close its descriptors.
const DYING: Duration = Duration::from_secs(5);

/// Parent of an ingress discipline's filters, "ffff:". tc(8).
const INGRESS: u32 = 0xffff_0000;

/// Place of an ingress discipline itself. linux/pkt_sched.h.
const TC_H_INGRESS: rtnetlink::packet_route::tc::TcHandle = rtnetlink::packet_route::tc::TcHandle {
    major: 0xffff,
    minor: 0xfff1,
};

/// ETH_P_ALL in network order, as filters have it.
const ALL_PROTOCOLS: u16 = 0x0003u16.to_be();

/// An interface before it is redirected.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) index: u32,
    name: String,
    mac: [u8; 6],
    mtu: u32,
    addresses: Vec<(IpAddr, u8)>,
}

impl From<Link> for Interface {
    fn from(link: Link) -> Self {
        Self {
            name: link.name,
            mac: link.mac,
            mtu: link.mtu,
            addresses: link.addresses,
        }
    }
}

pub(crate) fn refused(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    let what = what.into();
    move |source| Error::Refused {
        what,
        source: Box::new(source),
    }
}

/// Ethernet interfaces that are up and have an address.
pub(crate) async fn links(handle: &Handle) -> Result<Vec<Link>, Error> {
    let mut links: Vec<Link> = messages(handle).await?.iter().filter_map(link).collect();
    let mut addresses = handle.address().get().execute();
    while let Some(message) = addresses
        .try_next()
        .await
        .map_err(refused("list addresses"))?
    {
        let owner = links
            .iter_mut()
            .find(|link| link.index == message.header.index);
        let (mut local, mut peer) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(address) => local = Some(*address),
                AddressAttribute::Address(address) => peer = Some(*address),
                _ => {}
            }
        }
        // IPv6 has only the second, which then is the interface's own.
        let address = local.or(peer);
        if let (Some(link), Some(address)) = (owner, address)
            && !is_link_local(address)
        {
            link.addresses.push((address, message.header.prefix_len));
        }
    }
    links.retain(|link| !link.addresses.is_empty());
    Ok(links)
}

/// The guest's kernel makes its own.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn link(message: &LinkMessage) -> Option<Link> {
    let flags = message.header.flags;
    if flags.contains(LinkFlags::Loopback) || !flags.contains(LinkFlags::Up) {
        return None;
    }
    let (mut name, mut mac, mut mtu) = (None, None, 1500);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(value) => mtu = *value,
            _ => {}
        }
    }
    Some(Link {
        index: message.header.index,
        name: name?,
        mac: mac?,
        mtu,
        addresses: Vec::new(),
    })
}

/// Refuses an interface somebody turned away already.
pub(crate) async fn refuse_in_use(handle: &Handle, link: &Link) -> Result<(), Error> {
    let index = link.index.cast_signed();
    let all: Vec<_> = handle
        .qdisc()
        .get()
        .index(index)
        .ingress()
        .execute()
        .try_collect()
        .await
        .map_err(refused("list queueing disciplines"))?;
    let is_ingress = |kind: &TcAttribute| matches!(kind, TcAttribute::Kind(name) if name == "ingress" || name == "clsact");
    let used = all.iter().any(|discipline| {
        discipline.header.index == index && discipline.attributes.iter().any(is_ingress)
    });
    if used {
        return Err(Error::InUse {
            interface: link.name.clone(),
        });
    }
    Ok(())
}

/// Makes the tap devices of a sandbox, one for each interface; they have `queues` queues.
pub(crate) fn make_taps(owner: &str, count: usize, queues: u32) -> Result<Vec<Tap>, Error> {
    let queues = queues.clamp(1, QUEUE_LIMIT);
    let names = (0..count).map(|number| tap_name(owner, number));
    let taps = names.map(|name| bulkhead_sys::tap::create(&name, queues));
    taps.collect::<Result<_, _>>().map_err(Error::Tap)
}

/// Turns the frames of interfaces and of a sandbox's tap devices to each other, the first's
/// to the first's. Nothing is left of a failure.
pub(crate) async fn connect(handle: &Handle, links: &[Link], owner: &str) -> Result<(), Error> {
    for (number, link) in links.iter().enumerate() {
        if let Err(error) = connect_one(handle, link, &tap_name(owner, number)).await {
            release(handle).await?;
            return Err(error);
        }
    }
    Ok(())
}

async fn connect_one(handle: &Handle, link: &Link, tap_name: &str) -> Result<(), Error> {
    let index = index_of(handle, tap_name).await?;
    let change = LinkUnspec::new_with_index(index).mtu(link.mtu).up().build();
    let set = handle.link().set(change).execute().await;
    set.map_err(refused("bring the tap device up"))?;
    turn(handle, link.index, index).await?;
    turn(handle, index, link.index).await
}

async fn index_of(handle: &Handle, name: &str) -> Result<u32, Error> {
    let mut found = handle.link().get().match_name(name.to_owned()).execute();
    let link = found
        .try_next()
        .await
        .map_err(refused("find the tap device"))?;
    link.map(|link| link.header.index)
        .ok_or_else(|| Error::Tap(std::io::ErrorKind::NotFound.into()))
}

/// Turns what arrives at one interface to another.
async fn turn(handle: &Handle, from: u32, to: u32) -> Result<(), Error> {
    let index = from.cast_signed();
    let discipline = handle.qdisc().add(index).ingress().execute().await;
    discipline.map_err(refused("add an ingress discipline"))?;
    let filter = handle
        .traffic_filter(index)
        .add()
        .parent(INGRESS)
        .priority(PRIORITY)
        .protocol(ALL_PROTOCOLS)
        .redirect(to)
        .map_err(refused("make a filter"))?;
    filter
        .execute()
        .await
        .map_err(refused("redirect an interface's frames"))
}

/// Name of a sandbox's tap device.
pub(crate) fn tap_name(owner: &str, number: usize) -> String {
    let own = owner.chars().filter(char::is_ascii_alphanumeric).take(12);
    let own: String = TAP_NAME.chars().chain(own).collect();
    format!("{own}{number}")
}

/// Removes the redirections that bear our mark.
pub(crate) async fn release(handle: &Handle) -> Result<(), Error> {
    for message in messages(handle).await? {
        let index = message.header.index.cast_signed();
        let filters: Vec<_> = handle
            .traffic_filter(index)
            .get()
            .ingress()
            .execute()
            .try_collect()
            .await
            .unwrap_or_default();
        let own = |info: u32| (info >> 16) as u16 == PRIORITY;
        if filters.iter().any(|filter| own(filter.header.info)) {
            let mut request = handle.qdisc().del(index);
            request.message_mut().header.parent = TC_H_INGRESS;
            request
                .execute()
                .await
                .map_err(refused("remove an ingress discipline"))?;
        }
    }
    Ok(())
}

/// Removes them when no tap device of any sandbox is there: each goes with its
/// monitor's last descriptor.
pub(crate) async fn clear(handle: &Handle) -> Result<(), Error> {
    match messages(handle).await?.iter().any(is_tap) {
        true => Ok(()),
        false => release(handle).await,
    }
}

fn is_tap(message: &LinkMessage) -> bool {
    message.attributes.iter().any(
        |attribute| matches!(attribute, LinkAttribute::IfName(name) if name.starts_with(TAP_NAME)),
    )
}

async fn messages(handle: &Handle) -> Result<Vec<LinkMessage>, Error> {
    let links = handle.link().get().execute().try_collect().await;
    links.map_err(refused("list interfaces"))
}

/// Waits until there is no interface of this name.
pub(crate) async fn gone(name: &str) -> Result<(), Error> {
    let watch = async {
        let (connection, handle, mut events) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link]).map_err(Error::Tap)?;
        tokio::spawn(connection);
        // Looked for after the watch began, so that its end is not missed.
        while index_of(&handle, name).await.is_ok() {
            if events.next().await.is_none() {
                break;
            }
        }
        Ok(())
    };
    // One that stays is a monitor the kernel cannot end; its filters stay too.
    tokio::time::timeout(DYING, watch).await.unwrap_or(Ok(()))
}

//! Joins a sandbox to the interfaces of a network namespace, as a network
//! plugin left them.
//!
//! ```text
//!        the namespace                              the guest
//!   ── eth0 ── ingress ─redirect─▶ tap ─ frames ─▶ eth0, with the address,
//!        ▲                          │              hardware address, MTU and
//!        └────redirect── ingress ───┘              routes of the other
//! ```
//!
//! The interface keeps its addresses, so that whoever made it finds it as it
//! was; what arrives goes to the guest instead. tc-mirred(8).

mod loopback;
mod namespace;
mod redirect;
mod resolver;
mod routing;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use redirect::Link;
use rtnetlink::Handle;

/// Interfaces of a namespace that are joined at most; each is a device of the
/// machine.
const INTERFACE_LIMIT: usize = 4;

/// Interfaces that can come into a namespace after its sandbox.
pub const SPARES: usize = 2;

/// Why a namespace could not be joined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The namespace cannot be entered.
    #[error("the network namespace `{}` cannot be entered", path.display())]
    Enter {
        /// Its path.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: std::io::Error,
    },
    /// It is the caller's own.
    #[error(
        "the network namespace `{}` is the host's own, which would be off the network; give the \
         sandbox one of its own", path.display()
    )]
    Own {
        /// Its path.
        path: PathBuf,
    },
    /// The namespace holds no interface that could be joined.
    #[error(
        "the network namespace `{}` has no interface with an address (beside loopback); \
         set one up first", path.display()
    )]
    Empty {
        /// Its path.
        path: PathBuf,
    },
    /// The namespace holds too many interfaces.
    #[error("the network namespace has {0} interfaces, and a sandbox can join {INTERFACE_LIMIT}")]
    TooMany(usize),
    /// The namespace holds more interfaces than there are devices for.
    #[error(
        "the network namespace has got {found} interfaces, and the sandbox was given devices for \
         {SPARES}: connect it to fewer networks"
    )]
    TooManyLate {
        /// How many it has.
        found: usize,
    },
    /// The namespace holds too many routes, rules or neighbours.
    #[error("the network namespace has more than {limit} {what}, the most a sandbox can have")]
    TooManyEntries {
        /// Of what.
        what: &'static str,
        /// The most.
        limit: usize,
    },
    /// Another sandbox, or somebody's traffic shaping, uses an interface.
    #[error(
        "`{interface}` has an ingress discipline already: another sandbox is joined to it, or \
         traffic is shaped there; give each sandbox a namespace of its own"
    )]
    InUse {
        /// The interface's name.
        interface: String,
    },
    /// The tap device could not be made.
    #[error("a tap device could not be made")]
    Tap(#[source] std::io::Error),
    /// The connections to the loopback interface cannot be had.
    #[error(
        "the connections to the network namespace's loopback interface cannot be had (which \
         takes Linux 5.17 and the right to load eBPF programs)"
    )]
    Loopback(#[source] std::io::Error),
    /// The kernel refused a change.
    #[error("the kernel refused to {what}")]
    Refused {
        /// What was tried.
        what: String,
        /// What it says.
        #[source]
        source: Box<rtnetlink::Error>,
    },
}

pub use loopback::Loopback;
pub use resolver::{RESOLVER, resolver};

/// An interface the guest gets.
#[derive(Debug)]
pub struct Interface {
    /// Its name in the namespace, and in the guest.
    pub name: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Addresses and the length of their prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// The frames of an interface, each behind a `virtio_net_hdr`: a descriptor for each queue
/// of a tap device, for the monitor.
pub type Tap = Vec<OwnedFd>;

/// What the guest's kernel is told beside its interfaces. Each entry is the body
/// of a netlink message in which the number of an interface is that of its
/// place among the joined ones, from 1. rtnetlink(7).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routing {
    /// Routes of every table, `RTM_NEWROUTE`; the ones to neighbours first.
    pub routes: Vec<Vec<u8>>,
    /// Rules that choose a table, `RTM_NEWRULE`.
    pub rules: Vec<Vec<u8>>,
    /// Neighbours with a settled hardware address, `RTM_NEWNEIGH`.
    pub neighbours: Vec<Vec<u8>>,
}

/// A joined namespace. The redirection ends when this is dropped.
#[derive(Debug)]
pub struct Joined {
    /// Its interfaces.
    pub interfaces: Vec<Interface>,
    /// What each is joined to, in their order.
    pub taps: Vec<Tap>,
    /// Its routes, rules and neighbours.
    pub routing: Routing,
    /// Ends the redirection.
    pub guard: Guard,
}

/// Ends a redirection when dropped.
#[derive(Debug)]
pub struct Guard {
    path: PathBuf,
    owner: String,
}

impl Guard {
    fn new(path: &Path, owner: &str) -> Self {
        Self {
            path: path.to_owned(),
            owner: owner.to_owned(),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A namespace that is gone took everything along.
        let _ = release(&self.path, &self.owner);
    }
}

/// Joins the namespace at `path` (a file as `ip netns` makes them) for a
/// sandbox, whose id is `owner` and whose devices can have `queues` queues.
///
/// # Errors
///
/// [`Error`]; the namespace is then as it was.
pub fn join(path: &Path, owner: &str, queues: u32) -> Result<Joined, Error> {
    let shown = path.to_owned();
    namespace::refuse_own(path)?;
    let (links, taps, routing) = namespace::inside(path, async move |handle| {
        let links = redirect::links(&handle).await?;
        match links.len() {
            0 => return Err(Error::Empty { path: shown }),
            1..=INTERFACE_LIMIT => {}
            count => return Err(Error::TooMany(count)),
        }
        redirect::clear(&handle).await?;
        let routing = routing_of(&handle, &links).await?;
        let taps = redirect::make_taps(owner, links.len(), queues)?;
        redirect::connect(&handle, &links, owner).await?;
        Ok((links, taps, routing))
    })?;
    Ok(Joined {
        interfaces: links.into_iter().map(Interface::from).collect(),
        taps,
        routing,
        guard: Guard::new(path, owner),
    })
}

/// What the guest is told beside its interfaces, of those that nobody has turned away.
async fn routing_of(handle: &Handle, links: &[Link]) -> Result<Routing, Error> {
    for link in links {
        redirect::refuse_in_use(handle, link).await?;
    }
    let indexes: Vec<u32> = links.iter().map(|link| link.index).collect();
    routing::read(handle, routing::Places(&indexes)).await
}

/// Devices for interfaces that will come into the namespace at `path`.
#[derive(Debug)]
pub struct Reserved {
    /// [`SPARES`] of them.
    pub taps: Vec<Tap>,
    /// Ends the redirection of what will be connected.
    pub guard: Guard,
}

/// Makes tap devices for a namespace that has no interface yet, for a sandbox whose id
/// is `owner` and whose devices can have `queues` queues.
///
/// # Errors
///
/// [`Error`]; the namespace is then as it was.
pub fn reserve(path: &Path, owner: &str, queues: u32) -> Result<Reserved, Error> {
    namespace::refuse_own(path)?;
    let make = async |_| redirect::make_taps(owner, SPARES, queues);
    Ok(Reserved {
        taps: namespace::inside(path, make)?,
        guard: Guard::new(path, owner),
    })
}

/// Joins the interfaces that have come into a namespace to the devices reserved there:
/// the first to the first.
///
/// # Errors
///
/// [`Error`]; the namespace is then as it was.
pub fn connect(path: &Path, owner: &str) -> Result<(Vec<Interface>, Routing), Error> {
    namespace::inside(path, async |handle| {
        let links = redirect::links(&handle).await?;
        if links.len() > SPARES {
            return Err(Error::TooManyLate { found: links.len() });
        }
        let routing = routing_of(&handle, &links).await?;
        redirect::connect(&handle, &links, owner).await?;
        Ok((links.into_iter().map(Interface::from).collect(), routing))
    })
}

/// Ends the redirection of a sandbox that has ended, however it did: waits for
/// the monitor's descriptors to close, a moment. One of another sandbox stays,
/// and what others set up there too.
///
/// # Errors
///
/// [`Error::Enter`] when the namespace is gone, [`Error::Refused`].
pub fn release(path: &Path, owner: &str) -> Result<(), Error> {
    let first = redirect::tap_name(owner, 0);
    namespace::inside(path, async |handle| {
        redirect::gone(&first).await?;
        redirect::clear(&handle).await
    })
}

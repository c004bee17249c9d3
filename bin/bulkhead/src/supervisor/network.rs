//! The sandbox's network: the helper on the host and what the guest is told.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bulkhead_hypervisor::{NetBackend, NetDevice};
use bulkhead_provision::Helper;
use bulkhead_provision::network::{self, Routing};
use bulkhead_sandbox::{GuestConfig, Interface};
use bulkhead_sys::jail::Jail;

use super::ports;
use super::uplink::Uplink;
use crate::report;
use crate::state::Record;
use crate::state::record::NetworkMode;
use bulkhead_control::Failure;

/// The guest's address, its gateway, and where it asks for names. Inside the
/// sandbox only, so every sandbox can have the same.
pub(super) const ADDRESS: &str = "10.0.2.15";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(super) const NAME_SERVER: &str = "10.0.2.3";
/// The same of IPv6: a prefix nobody routes, and a neighbour on the link.
pub(super) const ADDRESS_6: &str = "fd62:756c:6b68::15";
const GATEWAY_6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x626b, 0x6864);
pub(super) const NAME_SERVER_6: &str = "fd62:756c:6b68::3";
const MTU: u16 = 1500;

/// What a network is made of.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) devices: Vec<NetDevice>,
    pub(super) guest: GuestConfig,
    pub(super) helper: Option<Helper>,
    /// Gives a joined namespace back.
    pub(super) guard: Option<bulkhead_network::Guard>,
}

/// Prepares the network of a container.
pub(super) fn plan(record: &Record) -> Result<Plan, Failure> {
    let failed = |text: String| Failure {
        exit_code: 125,
        text,
    };
    match &record.network {
        NetworkMode::None if record.ports.is_empty() => Ok(Plan::default()),
        NetworkMode::None => Err(failed(
            "--publish needs a network; leave --network none out".to_owned(),
        )),
        NetworkMode::Passt => passt(record).map_err(failed),
        NetworkMode::Namespace(_) if !record.ports.is_empty() => Err(failed(
            "--publish is for --network passt; a namespace's ports are published by whoever set \
             it up"
                .to_owned(),
        )),
        NetworkMode::Namespace(path) => namespace(record, path).map_err(failed),
    }
}

/// The interfaces of an existing namespace, as its network plugin set them up.
fn namespace(record: &Record, path: &Path) -> Result<Plan, String> {
    let joined = network::join(path, &record.id, record.vcpus).map_err(|error| {
        let hint = match rustix::process::geteuid().is_root() {
            true => "",
            false => "; joining a network namespace has to be done as root, passt needs no root",
        };
        format!("{}{hint}", report::chain(&error))
    })?;
    Ok(Plan {
        devices: joined.devices,
        guest: GuestConfig {
            dns_servers: record.dns.clone(),
            network: Some(network::told(joined.interfaces, joined.routing)).into(),
            ..Default::default()
        },
        helper: None,
        guard: joined.guard,
    })
}

fn passt(record: &Record) -> Result<Plan, String> {
    let (ours, theirs) = UnixStream::pair().map_err(|e| format!("no socket pair: {e}"))?;
    let ports = record
        .ports
        .iter()
        .map(|text| ports::parse(text))
        .collect::<Result<Vec<_>, _>>()?;
    let uplink = Uplink::find();
    if let Some(port) = ports.iter().find(|port| port.needs_v6() && !uplink.v6) {
        return Err(format!(
            "--publish {}: the host's interface `{}` has no IPv6",
            port.argument(),
            uplink.name
        ));
    }
    ports
        .iter()
        .try_for_each(|port| port.check_free(uplink.v6))?;
    let child = spawn(theirs.into(), &ports, &uplink)?;
    let id = u32::from_str_radix(record.id.get(..6).unwrap_or("0"), 16).unwrap_or(0);
    let [_, a, b, c] = id.to_be_bytes();
    // Locally administered, unicast.
    let mac = [0x02, 0x62, 0x6b, a, b, c];
    let interface = Interface {
        mac: network::mac_text(mac),
        name: "eth0".to_owned(),
        mtu: MTU.into(),
        addresses: uplink.addresses(),
        ..Default::default()
    };
    // Without a way out for IPv6 there is none to the guest either: a program
    // would wait for an answer instead of trying IPv4 at once.
    let mut routing = Routing::default();
    routing.add_default(GATEWAY.into());
    if uplink.routes_v6 {
        routing.add_default(GATEWAY_6.into());
    }
    let servers = if record.dns.is_empty() {
        uplink.name_servers()
    } else {
        record.dns.clone()
    };
    Ok(Plan {
        devices: vec![NetDevice {
            mac,
            mtu: MTU,
            backend: NetBackend::Stream(ours.into()),
        }],
        guest: GuestConfig {
            dns_servers: servers,
            network: Some(network::told(vec![interface], routing)).into(),
            ..Default::default()
        },
        helper: Some(Helper::new("the network's `passt`".to_owned(), child)),
        guard: None,
    })
}

/// Starts passt on a connected socket. It drops its privileges and closes
/// itself in; it gets no path and no name of a tenant.
fn spawn(socket: OwnedFd, ports: &[ports::Port], uplink: &Uplink) -> Result<Child, String> {
    let mut jail = Jail::new();
    let fd = jail.inherit(socket);
    let mut command = Command::new("passt");
    command
        .args(["--foreground", "--quiet", "--stderr", "--no-dhcp"])
        .args(["--fd", &fd.to_string(), "--mtu", &MTU.to_string()])
        .args([
            "--address",
            ADDRESS,
            "--netmask",
            "24",
            "--gateway",
            &GATEWAY.to_string(),
        ])
        .args(["--dns-forward", NAME_SERVER])
        .args(["--interface", &uplink.name]);
    if uplink.v6 {
        command
            .args(["--no-dhcpv6", "--no-ra"])
            .args(["--address", ADDRESS_6, "--gateway", &GATEWAY_6.to_string()])
            .args(["--dns-forward", NAME_SERVER_6]);
    } else {
        command.arg("--ipv4-only");
    }
    for (option, udp) in [("--tcp-ports", false), ("--udp-ports", true)] {
        let list: Vec<&ports::Port> = ports.iter().filter(|port| port.udp == udp).collect();
        if list.is_empty() {
            command.args([option, "none"]);
        }
        for port in list {
            command.args([option, &port.argument()]);
        }
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .current_dir("/");
    let guard = jail.apply(&mut command);
    let spawned = command.spawn();
    drop(guard);
    let mut child = spawned.map_err(|e| {
        format!(
            "`passt` did not start: {e}; install it: `apt install passt`, or use --network none"
        )
    })?;
    check(&mut child)?;
    Ok(child)
}

/// A refusal (a port in use, mostly) comes at once, as exit and text. The pipe
/// closes when passt has set itself up (it gives stderr up) or ended.
fn check(child: &mut Child) -> Result<(), String> {
    let Some(mut stderr) = child.stderr.take() else {
        return Ok(());
    };
    let mut fds = [rustix::event::PollFd::new(
        &stderr,
        rustix::event::PollFlags::IN,
    )];
    let moment = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: 30_000_000,
    };
    let quiet = rustix::event::poll(&mut fds, Some(&moment)).unwrap_or(0) == 0;
    if quiet {
        // Drained for the rest of its life, so that it never blocks.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        return Ok(());
    }
    let mut text = String::new();
    let moment = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    let mut buffer = [0; 2048];
    loop {
        let mut fds = [rustix::event::PollFd::new(
            &stderr,
            rustix::event::PollFlags::IN,
        )];
        if rustix::event::poll(&mut fds, Some(&moment)).unwrap_or(0) == 0 || text.len() > 4096 {
            break;
        }
        match stderr.read(&mut buffer) {
            Ok(count @ 1..) => text.push_str(&String::from_utf8_lossy(&buffer[..count])),
            _ => break,
        }
    }
    if child.try_wait().ok().flatten().is_some() {
        return Err(format!(
            "`passt` refused: {}",
            text.trim().replace('\n', "; ")
        ));
    }
    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    Ok(())
}

/// Does the text hold an address?
pub(super) fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

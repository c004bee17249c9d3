//! A sandbox on the interfaces of an existing network namespace.

use std::process::Command;

use bulkhead_e2e::{Host, tool};

/// Two namespaces joined by a cable: `near` is for the sandbox, `far` talks to
/// it. Removed at the end.
struct Cable {
    near: String,
    far: String,
}

impl Cable {
    fn new() -> Self {
        let id = std::process::id();
        let unique = format!("{:?}", std::thread::current().id());
        let unique: String = unique.chars().filter(char::is_ascii_digit).collect();
        let cable = Self {
            near: format!("bhn{id}-{unique}"),
            far: format!("bhf{id}-{unique}"),
        };
        let (near, far) = (cable.near.as_str(), cable.far.as_str());
        let ip = |args: &[&str]| tool("ip", args);
        ip(&["netns", "add", near]);
        ip(&["netns", "add", far]);
        let (veth, peer) = (["link", "add", "eth0", "netns", near], ["type", "veth"]);
        let rest = ["peer", "name", "eth0", "netns", far];
        ip(&[&veth[..], &peer, &rest].concat());
        for (name, last) in [(near, "2"), (far, "1")] {
            let address = format!("10.9.8.{last}/24");
            let v6 = format!("fd00::{last}/64");
            ip(&["-n", name, "addr", "add", &address, "dev", "eth0"]);
            ip(&["-n", name, "addr", "add", &v6, "dev", "eth0", "nodad"]);
            ip(&["-n", name, "link", "set", "eth0", "mtu", "1400", "up"]);
        }
        ip(&["-n", near, "route", "add", "default", "via", "10.9.8.1"]);
        ip(&[
            "-n",
            near,
            "route",
            "add",
            "10.77.0.0/16",
            "via",
            "10.9.8.1",
        ]);
        cable
    }

    fn option(&self) -> String {
        format!("ns:/run/netns/{}", self.near)
    }

    /// Runs a command at the far end.
    fn far(&self, args: &[&str]) -> String {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.far])
            .args(args)
            .output()
            .expect("ip is there: `apt install iproute2`");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Queueing disciplines and interfaces of the near namespace.
    fn near(&self) -> String {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.near, "sh", "-c"])
            .arg("tc qdisc show | grep -c ingress; ip -br link | grep -c ^bh")
            .output()
            .expect("ip is there: `apt install iproute2`");
        String::from_utf8_lossy(&output.stdout)
            .trim()
            .replace('\n', " ")
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in [&self.near, &self.far] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

#[test]
fn the_guest_has_the_namespaces_address_routes_and_mtu() {
    let host = Host::new();
    let cable = Cable::new();
    let script = "echo from the guest | nc -l -p 80; cat /sys/class/net/eth0/mtu; ip route; \
                  ip -6 addr show eth0 | grep -c fd00::2; echo | nc -w 5 10.9.8.1 81";
    host.start("box", &["--network", &cable.option()], script);
    let answer = cable.far(&[
        "sh",
        "-c",
        "busybox ping -c 1 -w 20 10.9.8.2 > /dev/null && \
         busybox ping6 -c 1 -w 5 fd00::2 > /dev/null && \
         until busybox nc 10.9.8.2 80 < /dev/null 2> /dev/null; do busybox sleep 0.1; done",
    ]);
    assert_eq!(answer, "from the guest");
    assert_eq!(
        cable.far(&[
            "busybox", "timeout", "20", "busybox", "nc", "-l", "-p", "81"
        ]),
        ""
    );
    let _ = host.bulkhead(&["wait", "box"]);
    let out = host.bulkhead(&["logs", "box"]).out;
    for line in [
        "1400",
        "default via 10.9.8.1 dev eth0",
        "10.77.0.0/16 via 10.9.8.1 dev eth0",
        "10.9.8.0/24 dev eth0",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    assert_eq!(cable.near(), "0 0");
    host.settles();
}

#[test]
fn a_namespace_has_one_sandbox_and_is_given_back_after_any_death() {
    let host = Host::new();
    let cable = Cable::new();
    let option = cable.option();
    host.start("one", &["--network", &option], "sleep 600");
    assert_eq!(cable.near(), "2 1");
    let two = host.bulkhead(&["run", "--rm", "--network", &option, &host.image(), "true"]);
    assert_eq!(two.code, 125, "{two:?}");
    assert!(two.err.contains("another sandbox"), "{two:?}");
    assert_eq!(cable.near(), "2 1");
    let pid = host.state("one")["supervisor_pid"].to_string();
    tool("kill", &["-9", &pid]);
    host.settles();
    assert_eq!(host.bulkhead(&["rm", "--force", "one"]).code, 0);
    assert_eq!(cable.near(), "0 0");
    host.start("three", &["--network", &option], "sleep 600");
    assert_eq!(cable.near(), "2 1");
    let pid = host.state("three")["supervisor_pid"].to_string();
    tool("kill", &["-9", &pid]);
    host.settles();
    // What a killed one left does not stand in the way of the next.
    host.start("four", &["--network", &option], "sleep 600");
    assert_eq!(host.bulkhead(&["rm", "--force", "three"]).code, 0);
    assert_eq!(cable.near(), "2 1");
    assert_eq!(host.bulkhead(&["rm", "--force", "four"]).code, 0);
    assert_eq!(cable.near(), "0 0");
}

#[test]
fn what_is_no_namespace_is_named() {
    let host = Host::new();
    let refused = |option: &str, why: &str| {
        let answer = host.bulkhead(&["run", "--rm", "--network", option, &host.image(), "true"]);
        assert_eq!(answer.code, 125, "{answer:?}");
        assert!(answer.err.contains(why), "{answer:?}");
    };
    refused(
        "ns:/run/netns/nosuch",
        "`/run/netns/nosuch` cannot be entered",
    );
    refused("ns:/etc/passwd", "`/etc/passwd` cannot be entered");
}

/// What only some plugins set up: Amazon's settles its gateway's hardware
/// address, Cilium has tables and rules, several give routes a source.
#[test]
fn rules_tables_neighbours_and_all_of_a_route_are_the_guests() {
    let host = Host::new();
    let cable = Cable::new();
    let near = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        tool("ip", &[&["-n", cable.near.as_str()], &words[..]].concat());
    };
    for line in [
        "addr add 10.9.8.3/24 dev eth0",
        "neigh add 10.9.8.9 lladdr 02:00:00:00:00:99 dev eth0 nud permanent",
        "neigh add fd00::9 lladdr 02:00:00:00:00:99 dev eth0 nud permanent",
        "route add 10.78.0.0/16 via 10.9.8.1 src 10.9.8.3 metric 42 mtu 1300",
        "route add 10.79.0.0/16 via 172.31.0.1 dev eth0 onlink",
        "route add blackhole 10.80.0.0/16",
        "route add 10.81.0.0/16 nexthop via 10.9.8.1 weight 1 nexthop via 10.9.8.4 weight 3",
        "-6 route add fd01::/64 via fd00::1 metric 42",
        "-6 route add unreachable fd02::/64",
        "route add default via 10.9.8.4 dev eth0 table 1000",
        "rule add from 10.9.8.3 lookup 1000 priority 77",
        "rule add not fwmark 0x7 iif eth0 lookup 1000 priority 78",
        "-6 rule add from fd00::3 lookup 100 priority 79",
    ] {
        near(line);
    }
    let script = "ip neigh; ip route; ip route show table 1000; ip rule; \
                  ip -6 route; ip -6 rule; ls /sys/class/net/eth0/queues";
    let options = ["run", "--rm", "--cpus", "2", "--network"];
    let option = cable.option();
    let answer =
        host.bulkhead(&[&options[..], &[&option, &host.image(), "sh", "-c", script]].concat());
    assert_eq!(answer.code, 0, "{answer:?}");
    // Busybox's ip says nothing of a route's MTU and next hops, nor of `not`.
    for line in [
        "10.9.8.9 dev eth0 lladdr 02:00:00:00:00:99",
        "fd00::9 dev eth0 lladdr 02:00:00:00:00:99",
        "10.78.0.0/16 via 10.9.8.1 dev eth0  src 10.9.8.3  metric 42",
        "10.79.0.0/16 via 172.31.0.1 dev eth0 onlink",
        "blackhole 10.80.0.0/16",
        "10.81.0.0/16",
        "fd01::/64 via fd00::1 dev eth0  metric 42",
        "unreachable fd02::/64",
        "default via 10.9.8.4 dev eth0",
        "77:\tfrom 10.9.8.3 lookup 1000",
        "78:\tfrom all fwmark 0x7 iif eth0 lookup 1000",
        "79:\tfrom fd00::3 lookup 100",
        // Each of the two processors has its own queue.
        "tx-1",
    ] {
        assert!(answer.out.contains(line), "{line}: {}", answer.out);
    }
    host.settles();
}

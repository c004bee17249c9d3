//! A pod in more than one network.

use bulkhead_e2e::Node;
use serde_json::json;

#[tokio::test]
async fn a_pod_has_every_interface_of_its_namespace() {
    let bridge = json!({"type": "bridge", "bridge": "second", "isGateway": true});
    let node = Node::with_second_network(bridge).await;
    let pod = node.pod("between").await;
    let app = pod.start("app", "sleep 1000").await;
    for (interface, network) in [("eth0", 88), ("eth1", 99)] {
        let seen = app
            .exec(&format!("ip -o address show dev {interface}"))
            .await
            .out;
        assert!(seen.contains(&format!("inet 10.{network}.0.")), "{seen}");
        assert!(seen.contains(&format!("inet6 fd00:{network}::")), "{seen}");
        for gateway in [format!("10.{network}.0.1"), format!("fd00:{network}::1")] {
            // An address of version 6 is not usable in its first second.
            let reach = format!(
                "for n in 1 2 3 4 5; do ping -c 1 -W 2 -I {interface} {gateway} && break; \
                 sleep 0.5; done > /dev/null && echo reached"
            );
            let seen = app.exec(&reach).await;
            assert_eq!(seen.out, "reached", "{interface} {gateway}: {seen:?}");
        }
    }
    // What leads elsewhere is the first one's.
    let route = app.exec("ip route | grep ^default").await.out;
    assert!(
        route.contains("dev eth0") && !route.contains("eth1"),
        "{route}"
    );
    let counted = app.exec("grep -c eth /proc/net/dev").await.out;
    assert_eq!(counted, "2");
    pod.remove().await.unwrap();
    // Both have their addresses back.
    let held = std::fs::read_dir(node.path().join("ipam")).into_iter();
    for network in held.flatten().flatten() {
        let leases = std::fs::read_dir(network.path()).unwrap().flatten();
        let left: Vec<_> = leases
            .map(|entry| entry.file_name())
            .filter(|name| {
                let name = name.to_string_lossy();
                name.contains(['.', ':']) && !name.starts_with("last_reserved")
            })
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn pods_reach_each_other_by_macvlan() {
    let macvlan = json!({"type": "macvlan", "master": "parent", "mode": "bridge"});
    let node = Node::with_second_network(macvlan).await;
    let (one, two) = (node.pod("one").await, node.pod("two").await);
    let client = one.start("client", "sleep 1000").await;
    let server = two.start("server", "sleep 1000").await;
    let address = "ip -o -4 address show dev eth1 | awk '{print $4}' | cut -d/ -f1";
    let there = server.exec(address).await.out;
    assert!(there.starts_with("10.99.0."), "{there}");
    let reach = format!("ping -c 1 -W 5 -I eth1 {there} > /dev/null && echo reached");
    let seen = client.exec(&reach).await;
    assert_eq!(seen.out, "reached", "{seen:?}");
    // A whole connection, with packets as large as they go.
    let serve = "nc -l -p 7000 -e sh -c 'cat > /tmp/got' > /dev/null 2>&1 & sleep 0.3; echo up";
    assert_eq!(server.exec(serve).await.out, "up");
    let send = format!("head -c 1000000 /dev/zero | nc {there} 7000; echo sent");
    assert_eq!(client.exec(&send).await.out, "sent");
    assert_eq!(server.exec("stat -c %s /tmp/got").await.out, "1000000");
    one.remove().await.unwrap();
    two.remove().await.unwrap();
}

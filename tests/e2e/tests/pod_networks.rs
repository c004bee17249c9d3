//! A pod in more than one network.

use bulkhead_e2e::Node;

#[tokio::test]
async fn a_pod_has_every_interface_of_its_namespace() {
    let node = Node::with_two_networks().await;
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

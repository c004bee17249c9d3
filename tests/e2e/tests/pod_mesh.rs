//! A service mesh as its injectors make one: an init container puts rules of
//! iptables into the pod's network, and a sidecar answers what the application
//! asks of others. Passes with runc too (`BULKHEAD_E2E_HANDLER=runc`).

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use bulkhead_e2e::Node;
use bulkhead_e2e::cri::{Capability, ContainerConfig};
use bulkhead_e2e::kubelet::mount;

/// What of this machine iptables needs: itself, the C library, its extensions.
const IPTABLES: [&str; 4] = [
    "/usr/sbin/xtables-nft-multi",
    "/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib/x86_64-linux-gnu",
];

/// Who runs as this user is the sidecar, whose own questions go out.
const SIDECAR: i64 = 1337;

fn with_iptables(config: &mut ContainerConfig) {
    let linux = config.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().capabilities = Some(Capability {
        add_capabilities: vec!["NET_ADMIN".into(), "NET_RAW".into()],
        ..Default::default()
    });
    let mounts = IPTABLES.map(|path| mount(Path::new(path), path, true));
    config.mounts = mounts.into();
}

#[tokio::test]
async fn a_sidecar_takes_what_the_application_sends() {
    let node = Node::start().await;
    let pod = node.pod("meshed").await;
    let rules = format!(
        "set -e; t() {{ /usr/sbin/xtables-nft-multi iptables -t nat \"$@\"; }}
         t -N MESH
         t -A OUTPUT -p tcp -j MESH
         t -A MESH -m owner --uid-owner {SIDECAR} -j RETURN
         t -A MESH -d 127.0.0.1/32 -j RETURN
         t -A MESH -p tcp --dport 80 -j REDIRECT --to-ports 15001
         t -S MESH | grep -c -- -j"
    );
    let init = pod.start_with("init", &rules, with_iptables).await.unwrap();
    let ended = init.ended().await;
    assert_eq!(ended.exit_code, 0, "{ended:?} {}", init.log());
    assert_eq!(init.log(), "stdout 3\n");
    init.remove().await.unwrap();

    let serve = "httpd -f -p 15001 -h /etc";
    let sidecar = |config: &mut ContainerConfig| {
        let linux = config.linux.as_mut().unwrap();
        let user = bulkhead_e2e::cri::Int64Value { value: SIDECAR };
        linux.security_context.as_mut().unwrap().run_as_user = Some(user);
    };
    let proxy = pod.start_with("proxy", serve, sidecar).await.unwrap();
    let listens = "until grep -q ':3A99 ' /proc/net/tcp /proc/net/tcp6; do :; done";
    assert_eq!(proxy.exec(listens).await.code, 0);

    // Somebody else's address, at which nobody answers.
    let app = pod.start("app", "sleep 1000").await;
    let ask = "printf 'GET /group HTTP/1.0\\r\\n\\r\\n' | nc -w 10 10.88.0.1 80";
    let seen = app.exec(ask).await;
    assert!(seen.out.contains("logs:x:50:web"), "{seen:?}");
    let seen = proxy.exec(ask).await;
    assert!(seen.code != 0 && seen.err.contains("refused"), "{seen:?}");
    pod.remove().await.unwrap();
    // The node's own rules know nothing of it.
    let rules = node.shell("iptables -t nat -S").out;
    assert!(!rules.contains("MESH"), "{rules}");
}

//! Pods, as the kubelet makes them.

use bulkhead_e2e::{Node, in_machine};

#[tokio::test]
async fn containers_of_a_pod_share_its_kernel_name_and_network() {
    let node = Node::start().await;
    let pod = node.pod("web").await;
    assert!(pod.is_ready().await);
    let server = pod
        .start(
            "server",
            "echo hi > /tmp/index.html; httpd -f -p 8080 -h /tmp",
        )
        .await;
    let client = pod.start("client", "sleep 1000").await;

    let kernel = client.exec("uname -r").await.out;
    assert_eq!(
        kernel != bulkhead_e2e::host_kernel(),
        in_machine(),
        "{kernel}"
    );
    assert_eq!(server.exec("uname -r").await.out, kernel);
    assert_eq!(client.exec("hostname").await.out, "web");
    let through_loopback = client
        .exec("wget -qO- http://127.0.0.1:8080/index.html")
        .await;
    assert_eq!(through_loopback.out, "hi", "{through_loopback:?}");
    // Their files and processes are their own.
    assert_eq!(client.exec("ls /tmp").await.out, "");
    assert_eq!(client.exec("ps | grep -c '[h]ttpd'").await.out, "0");

    let address = pod.address().await;
    let from_node = node.shell(&format!(
        "busybox wget -qO- http://{address}:8080/index.html"
    ));
    assert_eq!(from_node.out, "hi", "{from_node:?}");
    let addresses = client.exec("ip addr show eth0").await.out;
    assert!(
        addresses.contains(&address) && addresses.contains("fd00:88::"),
        "{addresses}"
    );
    assert!(addresses.contains("mtu 1400"), "{addresses}");

    pod.remove().await.unwrap();
    node.no_shims().await;
}

#[tokio::test]
async fn a_container_ends_as_it_says_and_its_log_is_whole() {
    let node = Node::start().await;
    let pod = node.pod("batch").await;
    let job = pod
        .start(
            "job",
            "echo one; echo two >&2; seq 1 20000 | tail -1; exit 3",
        )
        .await;
    let status = job.ended().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    let log = job.log();
    for line in ["stdout one", "stderr two", "stdout 20000"] {
        assert!(log.contains(line), "{log}");
    }
    // The pod goes on: the next container is its second.
    let next = pod.start("next", "exit 0").await;
    assert_eq!(next.ended().await.reason, "Completed");
    job.remove().await.unwrap();
    pod.remove().await.unwrap();
}

/// `kubectl debug --target`: an ephemeral container with another's processes.
#[tokio::test]
async fn a_container_may_have_the_processes_of_one_other() {
    use bulkhead_e2e::cri::{ContainerConfig, NamespaceMode};
    let node = Node::start().await;
    let pod = node.pod("target").await;
    let app = pod.start("app", "sleep 4321").await;
    let other = pod.start("other", "sleep 9876").await;
    let into = |id: &str| {
        let id = id.to_owned();
        |config: &mut ContainerConfig| {
            let linux = config.linux.as_mut().unwrap();
            let context = linux.security_context.as_mut().unwrap();
            let options = context.namespace_options.as_mut().unwrap();
            options.pid = NamespaceMode::Target.into();
            options.target_id = id;
        }
    };
    let debug = pod
        .start_with("debug", "sleep 1234", into(&app.id))
        .await
        .unwrap();
    let seen = debug.exec("ps -o args").await.out;
    assert!(seen.contains("sleep 4321"), "{seen}");
    assert!(!seen.contains("sleep 9876"), "{seen}");
    assert_eq!(
        debug.exec("hostname; cat /proc/1/comm").await.out,
        "target\nsleep"
    );
    let seen = app.exec("ps -o args").await.out;
    assert!(seen.contains("sleep 1234"), "{seen}");
    let seen = other.exec("ps -o args").await.out;
    assert!(
        !seen.contains("sleep 4321") && !seen.contains("sleep 1234"),
        "{seen}"
    );

    // It ends alone; its target takes it along.
    debug.stop(0).await.unwrap();
    assert_eq!(debug.ended().await.exit_code, 137);
    assert!(app.exec("ps -o args").await.out.contains("sleep 4321"));
    let debug = pod
        .start_with("again", "sleep 1234", into(&app.id))
        .await
        .unwrap();
    app.stop(0).await.unwrap();
    assert_eq!(debug.ended().await.exit_code, 137);
    assert_eq!(other.exec("echo well").await.out, "well");
    pod.remove().await.unwrap();
    node.no_shims().await;
}

#[tokio::test]
async fn containers_may_share_their_processes() {
    use bulkhead_e2e::cri::NamespaceMode;
    let node = Node::start().await;
    let pod = node
        .pod_with("shared", |config| {
            let linux = config.linux.as_mut().unwrap();
            let context = linux.security_context.as_mut().unwrap();
            context.namespace_options.as_mut().unwrap().pid = NamespaceMode::Pod.into();
        })
        .await
        .unwrap();
    let shared = |config: &mut bulkhead_e2e::cri::ContainerConfig| {
        let linux = config.linux.as_mut().unwrap();
        let context = linux.security_context.as_mut().unwrap();
        context.namespace_options.as_mut().unwrap().pid = NamespaceMode::Pod.into();
    };
    let app = pod
        .start_with("app", "trap 'exit 7' USR1; sleep 4321 & wait", shared)
        .await
        .unwrap();
    let side = pod.start_with("side", "sleep 1234", shared).await.unwrap();
    let seen = side.exec("ps -o args").await.out;
    assert!(seen.contains("sleep 4321"), "{seen}");
    // The first process is neither's.
    let first = side.exec("tr '\\0' ' ' < /proc/1/cmdline").await.out;
    assert!(!first.contains("sleep 1234"), "{first}");
    assert_ne!(side.exec("ls /proc/1/root/init").await.code, 0);

    // A container ends as a whole, with its first process, and alone.
    let signal = "kill -USR1 $(ps -o pid,args | awk '/[t]rap/ {print $1}')";
    assert_eq!(side.exec(signal).await.code, 0);
    assert_eq!(app.ended().await.exit_code, 7);
    let left = side.exec("ps -o args").await.out;
    assert!(!left.contains("sleep 4321"), "{left}");
    assert!(left.contains("sleep 1234"), "{left}");
    // The pod's first container is gone; the next finds the same processes.
    app.remove().await.unwrap();
    let next = pod.start_with("next", "sleep 5678", shared).await.unwrap();
    let seen = next.exec("ps -o args").await.out;
    assert!(seen.contains("sleep 1234"), "{seen}");
    assert_eq!(next.exec("tr '\\0' ' ' < /proc/1/cmdline").await.out, first);
    let seen = side.exec("ps -o args").await.out;
    assert!(seen.contains("sleep 5678"), "{seen}");
    pod.remove().await.unwrap();
    node.no_shims().await;
}

//! Pods when something dies, and pods that are asked for nonsense.

use bulkhead_e2e::{Node, in_machine};

fn kill(pid: u32) {
    let pid = pid.to_string();
    bulkhead_e2e::tool("kill", &["-9", &pid]);
}

#[tokio::test]
async fn containerd_may_be_killed_and_come_back() {
    let mut node = Node::start().await;
    let pod_id;
    let container_id;
    {
        let pod = node.pod("lasting").await;
        let container = pod
            .start(
                "worker",
                "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done",
            )
            .await;
        pod_id = pod.id.clone();
        container_id = container.id.clone();
    }
    node.kill_containerd();
    node.start_containerd().await;
    let pod = node.known_pod(&pod_id);
    assert!(pod.is_ready().await);
    let container = node.known_container(&container_id);
    assert_eq!(container.exec("echo still").await.out, "still");
    container.stop(0).await.unwrap();
    assert_eq!(container.ended().await.exit_code, 137);
    pod.remove().await.unwrap();
    node.no_shims().await;
}

#[tokio::test]
async fn a_dead_monitor_fails_its_containers_and_the_log_says_why() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let pod = node.pod("victim").await;
    let other = node.pod("other").await;
    let container = pod.start("worker", "sleep 1000").await;
    let bystander = other.start("worker", "sleep 1000").await;
    let monitor = node.monitor_of(&pod);
    let before = std::time::Instant::now();
    kill(monitor);
    let status = container.ended().await;
    assert!(before.elapsed() < std::time::Duration::from_secs(1));
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Error"));
    let log = container.log();
    assert!(
        log.contains("virtual machine ended") && log.contains("signal 9"),
        "{log}"
    );
    pod.ended().await;
    assert_eq!(bystander.exec("echo well").await.out, "well");
    pod.remove().await.unwrap();
    other.remove().await.unwrap();
    assert!(node.monitors().is_empty());
}

#[tokio::test]
async fn a_dead_shim_leaves_nothing() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let pod = node.pod("victim").await;
    let container = pod.start("worker", "sleep 1000").await;
    for pid in node.shims() {
        kill(pid);
    }
    let status = container.ended().await;
    assert_ne!(status.exit_code, 0);
    pod.remove().await.unwrap();
    assert!(node.monitors().is_empty());
    // The network was given back and works for the next.
    let next = node.pod("next").await;
    let container = next.start("worker", "sleep 1000").await;
    assert_eq!(
        container
            .exec("ping -c 1 -W 5 10.88.0.1 > /dev/null && echo reached")
            .await
            .out,
        "reached"
    );
    next.remove().await.unwrap();
}

/// What containerd does when it lost a connection: of a pod that lives all the
/// same, or of a container whose pod does.
#[tokio::test]
async fn a_shim_that_is_told_to_clean_up_ends_what_lives() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let pod = node.pod("forgotten").await;
    let lost = pod.start("lost", "sleep 1000").await;
    let kept = pod.start("kept", "sleep 1000").await;
    node.clean_up(&lost.id);
    assert_eq!(lost.ended().await.exit_code, 137);
    assert_eq!(kept.exec("echo well").await.out, "well");
    node.clean_up(&pod.id);
    // containerd has the shim clean up as well, for each task it lost.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !(node.shims().is_empty() && node.monitors().is_empty()) {
        assert!(std::time::Instant::now() < deadline, "{:?}", node.shims());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    pod.ended().await;
    // containerd 2 handles the end of a container whose shim was gone by the time a
    // second later, and refuses until then.
    node.remove_all().await.unwrap();
}

#[tokio::test]
async fn wrong_commands_and_mounts_are_named_and_harm_nobody() {
    let node = Node::start().await;
    let pod = node.pod("wrong").await;
    let good = pod.start("good", "sleep 1000").await;
    let missing = pod
        .start_with("missing", "", |config| {
            config.command = vec!["/no/such".into()]
        })
        .await;
    let text = missing.unwrap_err().message().to_owned();
    assert!(text.contains("/no/such"), "{text}");
    let denied = pod
        .start_with("denied", "", |config| {
            config.command = vec!["/etc/passwd".into()]
        })
        .await;
    assert!(denied.is_err());
    assert!(good.run(&["nosuch"]).await.is_err());
    if in_machine() {
        let socket = node.path().join("containerd.sock").display().to_string();
        let mount = bulkhead_e2e::cri::Mount {
            container_path: "/run/x.sock".into(),
            host_path: socket,
            ..Default::default()
        };
        let refused = pod
            .start_with("socket", "true", |config| config.mounts.push(mount))
            .await;
        let text = refused.unwrap_err().message().to_owned();
        assert!(text.contains("is a socket"), "{text}");
    }
    assert_eq!(good.exec("echo well").await.out, "well");
    pod.remove().await.unwrap();
    node.no_shims().await;
}

#[tokio::test]
async fn a_hundred_execs_at_once_leave_nothing() {
    let node = Node::start().await;
    let pod = node.pod("busy").await;
    let container = pod.start("worker", "sleep 1000").await;
    let work = (0..100).map(|number| {
        let container = &container;
        async move {
            let answer = container
                .exec(&format!("echo {number}; exit {}", number % 7))
                .await;
            assert_eq!(answer.out, number.to_string());
            assert_eq!(answer.code, number % 7);
        }
    });
    futures::future::join_all(work).await;
    assert_eq!(container.exec("ps | grep -c '[e]cho'").await.out, "0");
    // Its own sleep, the shell of this exec, ls and grep.
    let left = container.exec("ls /proc | grep -c '^[0-9]'").await.out;
    assert!(left == "3" || left == "4", "{left}");
    pod.remove().await.unwrap();
}

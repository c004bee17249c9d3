//! What a pod's specification may say, seen from inside the container. Every
//! test passes with runc too (`BULKHEAD_E2E_HANDLER=runc`).

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use bulkhead_e2e::cri::security_profile::ProfileType;
use bulkhead_e2e::cri::{
    Capability, Int64Value, KeyValue, LinuxContainerSecurityContext, Mount, SecurityProfile,
};
use bulkhead_e2e::{Node, in_machine};

/// Changes a container's security context.
fn secure(
    change: impl FnOnce(&mut LinuxContainerSecurityContext),
) -> impl FnOnce(&mut bulkhead_e2e::cri::ContainerConfig) {
    |config| {
        let linux = config.linux.as_mut().unwrap();
        change(linux.security_context.as_mut().unwrap());
    }
}

#[tokio::test]
async fn users_groups_and_capabilities() {
    let node = Node::start().await;
    let pod = node.pod("users").await;
    let user = secure(|context| {
        context.run_as_user = Some(Int64Value { value: 33 });
        context.run_as_group = Some(Int64Value { value: 7 });
        context.supplemental_groups = vec![1234];
        context.no_new_privs = true;
    });
    let web = pod.start_with("web", "sleep 1000", user).await.unwrap();
    let script = "id -u; id -g; id -G; grep NoNewPrivs /proc/self/status; echo 1 > /x || echo no";
    let seen = web.exec(script).await.out;
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[0], "33", "{seen}");
    assert_eq!(lines[1], "7", "{seen}");
    assert!(lines[2].contains("1234"), "{seen}");
    assert_eq!(lines[3], "NoNewPrivs:\t1");
    assert_eq!(lines[4], "no");

    let few = secure(|context| {
        context.capabilities = Some(Capability {
            drop_capabilities: vec!["ALL".into()],
            add_capabilities: vec!["NET_BIND_SERVICE".into()],
            ..Default::default()
        });
    });
    let few = pod.start_with("few", "sleep 1000", few).await.unwrap();
    let seen = few
        .exec("grep CapEff /proc/1/status /proc/self/status")
        .await
        .out;
    assert_eq!(seen.matches("0000000000000400").count(), 2, "{seen}");
    assert_ne!(few.exec("chown 1 /tmp").await.code, 0);
    pod.remove().await.unwrap();
}

#[tokio::test]
async fn read_only_masked_and_filtered() {
    let node = Node::start().await;
    let pod = node.pod("closed").await;
    let closed = secure(|context| {
        context.readonly_rootfs = true;
        context.masked_paths = vec!["/proc/keys".into(), "/proc/timer_list".into()];
        context.readonly_paths = vec!["/proc/sys".into()];
        context.seccomp = Some(SecurityProfile {
            profile_type: ProfileType::RuntimeDefault.into(),
            ..Default::default()
        });
    });
    let closed = pod
        .start_with("closed", "sleep 1000", closed)
        .await
        .unwrap();
    let seen = closed
        .exec(
            "touch /x 2>&1; echo 1 > /proc/sys/kernel/hostname; cat /proc/timer_list | wc -c; \
             grep '^Seccomp:' /proc/self/status; unshare -m true; mount | grep -c ' /tmp '",
        )
        .await;
    let text = format!("{}{}", seen.out, seen.err);
    assert!(text.contains("Read-only file system"), "{text}");
    assert!(text.contains("\n0\n"), "{text}");
    assert!(text.contains("Seccomp:\t2"), "{text}");
    assert!(text.contains("Operation not permitted"), "{text}");
    pod.remove().await.unwrap();
}

#[tokio::test]
async fn a_privileged_container_may_do_everything_to_its_own_kernel() {
    let node = Node::start().await;
    let privileged = |config: &mut bulkhead_e2e::cri::PodSandboxConfig| {
        let linux = config.linux.as_mut().unwrap();
        linux.security_context.as_mut().unwrap().privileged = true;
    };
    let pod = node.pod_with("power", privileged).await.unwrap();
    let power = secure(|context| context.privileged = true);
    let power = pod.start_with("power", "sleep 1000", power).await.unwrap();
    let seen = power
        .exec("mount -t tmpfs none /tmp && echo mounted; grep CapEff /proc/self/status")
        .await;
    assert!(seen.out.contains("mounted"), "{seen:?}");
    assert!(seen.out.contains("CapEff:\t000001ff"), "{seen:?}");
    if in_machine() {
        // A setting of the whole kernel: the guest's.
        let own = || std::fs::read_to_string("/proc/sys/kernel/panic").unwrap();
        let before = own();
        assert_eq!(power.exec("echo 77 > /proc/sys/kernel/panic").await.code, 0);
        assert_eq!(power.exec("cat /proc/sys/kernel/panic").await.out, "77");
        assert_eq!(own(), before);
    }
    pod.remove().await.unwrap();
}

#[tokio::test]
async fn names_variables_and_the_working_directory() {
    let node = Node::start().await;
    let dns = |config: &mut bulkhead_e2e::cri::PodSandboxConfig| {
        config.dns_config = Some(bulkhead_e2e::cri::DnsConfig {
            servers: vec!["10.96.0.10".into()],
            searches: vec!["default.svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        });
        let linux = config.linux.as_mut().unwrap();
        linux
            .sysctls
            .insert("net.ipv4.ip_forward".into(), "1".into());
    };
    let pod = node.pod_with("named", dns).await.unwrap();
    let variables = |config: &mut bulkhead_e2e::cri::ContainerConfig| {
        config.working_dir = "/home".into();
        config.envs.push(KeyValue {
            key: "COLOUR".into(),
            value: "deep  blue".into(),
        });
    };
    let own = pod
        .start_with("own", "sleep 1000", variables)
        .await
        .unwrap();
    let seen = own
        .exec("pwd; echo \"$COLOUR\"; cat /etc/resolv.conf /etc/hostname /proc/sys/net/ipv4/ip_forward")
        .await
        .out;
    let expected = "/home\ndeep  blue\nsearch default.svc.cluster.local\n\
                    nameserver 10.96.0.10\noptions ndots:5\nnamed\n1";
    assert_eq!(seen, expected);
    let seen = own
        .exec("df /dev/shm | tail -1; echo x > /dev/shm/x && cat /dev/shm/x")
        .await
        .out;
    assert!(seen.contains("65536") && seen.ends_with('x'), "{seen}");
    // Shared memory is the pod's.
    let other = pod.start("other", "sleep 1000").await;
    assert_eq!(other.exec("cat /dev/shm/x").await.out, "x");
    pod.remove().await.unwrap();
}

#[tokio::test]
async fn volumes_are_live_and_read_only_ones_stay_so() {
    let node = Node::start().await;
    // As the kubelet lays out a configMap.
    let map = node.path().join("config");
    let data = map.join("..2026_1");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("key"), "old").unwrap();
    std::os::unix::fs::symlink("..2026_1", map.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/key", map.join("key")).unwrap();
    let empty = node.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let message = node.path().join("message");
    std::fs::write(&message, "").unwrap();

    let pod = node.pod("volumes").await;
    let mount = |path: &std::path::Path, at: &str, readonly| Mount {
        container_path: at.into(),
        host_path: path.display().to_string(),
        readonly,
        ..Default::default()
    };
    let mounts = vec![
        mount(&map, "/config", true),
        mount(&empty, "/data", false),
        mount(&map, "/data/config", true),
        mount(&message, "/dev/termination-log", false),
    ];
    let given = mounts.clone();
    let one = pod
        .start_with(
            "one",
            "echo why > /dev/termination-log; sleep 1000",
            |config| {
                config.mounts = given;
            },
        )
        .await
        .unwrap();
    let two = pod
        .start_with("two", "sleep 1000", |config| config.mounts = mounts)
        .await
        .unwrap();
    assert_eq!(
        one.exec("cat /config/key /data/config/key").await.out,
        "oldold"
    );
    assert_ne!(one.exec("echo x > /config/new").await.code, 0);
    assert_eq!(
        one.exec("mkdir /data/dir; echo from-one > /data/dir/file")
            .await
            .code,
        0
    );
    assert_eq!(two.exec("cat /data/dir/file").await.out, "from-one");
    let on_node = std::fs::read_to_string(empty.join("dir/file")).unwrap();
    assert_eq!(on_node, "from-one\n");

    // The kubelet's atomic update.
    let data = map.join("..2026_2");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("key"), "new").unwrap();
    std::os::unix::fs::symlink("..2026_2", map.join("..tmp")).unwrap();
    std::fs::rename(map.join("..tmp"), map.join("..data")).unwrap();
    assert_eq!(one.exec("cat /config/key").await.out, "new");
    assert_eq!(std::fs::read_to_string(&message).unwrap(), "why\n");
    pod.remove().await.unwrap();
}

#[tokio::test]
async fn limits_hold_and_too_much_memory_is_called_so() {
    let node = Node::start().await;
    let pod = node.pod("limited").await;
    let limited = |config: &mut bulkhead_e2e::cri::ContainerConfig| {
        let linux = config.linux.as_mut().unwrap();
        linux.resources.as_mut().unwrap().memory_limit_in_bytes = 32 << 20;
    };
    let hungry = pod
        .start_with("hungry", "head -c 200m /dev/zero | tail", limited)
        .await
        .unwrap();
    let status = hungry.ended().await;
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (137, "OOMKilled")
    );
    // Its neighbour did not notice.
    let other = pod.start("other", "sleep 1000").await;
    assert_eq!(other.exec("echo well").await.out, "well");
    pod.remove().await.unwrap();
}

#[tokio::test]
async fn limits_are_changed_again_and_again_and_devices_stay_as_they_are() {
    let node = Node::start().await;
    let pod = node.pod("changed").await;
    let container = pod.start("one", "sleep 1000").await;
    let hungry = "head -c 100m /dev/zero | tail > /dev/null; echo $?";
    assert_eq!(container.exec(hungry).await.out, "0");
    for (quota, memory) in [(40_000, 200 << 20), (45_000, 48 << 20)] {
        let limits = bulkhead_e2e::cri::LinuxContainerResources {
            cpu_period: 50_000,
            cpu_quota: quota,
            memory_limit_in_bytes: memory,
            ..Default::default()
        };
        container.update(limits).await.unwrap();
        // containerd says the device rules again with each update.
        let seen = container
            .exec(
                "head -c 1 /dev/zero | wc -c; test -e /log || mknod /log c 1 11; \
                 head -c 1 /log || echo refused",
            )
            .await;
        assert_eq!(seen.out, "1\nrefused", "{seen:?}");
    }
    // The second limit holds; 137 is SIGKILL.
    assert_eq!(container.exec(hungry).await.out, "137");
    pod.remove().await.unwrap();
}

#[tokio::test]
async fn the_hosts_namespaces_are_refused_in_one_sentence() {
    if !in_machine() {
        return;
    }
    use bulkhead_e2e::cri::NamespaceMode;
    let node = Node::start().await;
    // The node's interfaces, and what traffic of theirs goes through.
    let network = || {
        node.shell("ip -o link; ip -o address; ip route; tc qdisc; tc filter")
            .out
    };
    let before = network();
    assert!(before.contains("lo"), "{before}");
    for (name, word) in [
        ("net", "hostNetwork"),
        ("pid", "hostPID"),
        ("ipc", "hostIPC"),
    ] {
        let refused = node
            .pod_with(name, |config| {
                let linux = config.linux.as_mut().unwrap();
                let context = linux.security_context.as_mut().unwrap();
                let options = context.namespace_options.as_mut().unwrap();
                let mode = NamespaceMode::Node.into();
                match name {
                    "net" => options.network = mode,
                    "pid" => options.pid = mode,
                    _ => options.ipc = mode,
                }
            })
            .await;
        let text = refused.unwrap_err().message().to_owned();
        assert!(text.contains(&format!("{word} is not possible")), "{text}");
        // The others have a network of their own, for which CNI makes a bridge.
        if name == "net" {
            assert_eq!(network(), before);
        }
    }
    node.no_shims().await;
    assert!(node.monitors().is_empty());
}

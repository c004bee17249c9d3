//! Limits changed while containers run, seen from inside.

use bulkhead_e2e::cri::{
    ContainerConfig, LinuxContainerResources, UpdateContainerResourcesRequest,
};
use bulkhead_e2e::{Container, Node, OWN_GROUP, arguments, bound, in_machine};

/// Changes limits as the kubelet does.
async fn update(
    node: &Node,
    container: &Container<'_>,
    limits: LinuxContainerResources,
) -> Result<(), tonic::Status> {
    let request = UpdateContainerResourcesRequest {
        container_id: container.id.clone(),
        linux: Some(limits),
        ..Default::default()
    };
    let mut runtime = node.runtime.clone();
    runtime.update_container_resources(request).await.map(drop)
}

fn memory(mib: i64) -> LinuxContainerResources {
    LinuxContainerResources {
        memory_limit_in_bytes: mib << 20,
        ..Default::default()
    }
}

/// A container with limits from its start.
fn limited(limits: LinuxContainerResources) -> impl FnOnce(&mut ContainerConfig) {
    |config| {
        config
            .linux
            .as_mut()
            .expect("a container of Linux")
            .resources = Some(limits)
    }
}

/// Has a process take memory; its exit code.
async fn take(container: &Container<'_>, mib: u32) -> i32 {
    let script = format!("head -c {mib}m /dev/zero | tail > /dev/null");
    container.exec(&script).await.code
}

#[tokio::test]
async fn limits_change_in_both_directions_and_take_effect() {
    let node = Node::start().await;
    let pod = node.pod("resized").await;
    let app = pod
        .start_with("app", "sleep 1000", limited(memory(48)))
        .await
        .unwrap();
    assert_ne!(take(&app, 80).await, 0);
    update(&node, &app, memory(200)).await.unwrap();
    assert_eq!(take(&app, 80).await, 0);
    update(&node, &app, memory(32)).await.unwrap();
    assert_ne!(take(&app, 80).await, 0);
    assert_eq!(app.exec("echo well").await.out, "well");

    let half = LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 20_000,
        cpu_shares: 512,
        ..Default::default()
    };
    update(&node, &app, half).await.unwrap();
    if in_machine() {
        let group = |file: &str| format!("cat {OWN_GROUP}/{file}");
        assert_eq!(app.exec(&group("cpu.max")).await.out, "20000 100000");
        assert_eq!(app.exec(&group("cpu.weight")).await.out, "20");
        // What was not named stays.
        let kept = app.exec(&group("memory.max")).await.out;
        assert_eq!(kept, (32 << 20).to_string());
        let throttled = format!(
            "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; \
             grep nr_throttled {OWN_GROUP}/cpu.stat"
        );
        let seen = app.exec(&throttled).await.out;
        assert_ne!(seen, "nr_throttled 0", "{seen}");
    }
    pod.remove().await.unwrap();
}

#[tokio::test]
async fn what_the_machine_cannot_give_is_refused_and_changes_nothing() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let pod = node.pod("bounded").await;
    let app = pod
        .start_with("app", "sleep 1000", limited(memory(48)))
        .await
        .unwrap();
    let mut limits = memory(8192);
    limits.cpu_shares = 2;
    let text = update(&node, &app, limits).await.unwrap_err();
    assert!(text.message().contains("cannot grow"), "{text}");
    // The limit that could have been had was not changed either.
    let seen = app
        .exec(&format!("cd {OWN_GROUP}; cat memory.max cpu.weight"))
        .await;
    assert_eq!(seen.out, format!("{}\n100", 48 << 20));
    if std::thread::available_parallelism().unwrap().get() > 1 {
        let two = LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 200_000,
            ..Default::default()
        };
        let text = update(&node, &app, two).await.unwrap_err();
        assert!(text.message().contains("needs 2 vCPUs"), "{text}");
    }
    pod.remove().await.unwrap();
}

/// A limit of memory, and one of processors in hundredths.
fn both(mib: i64, hundredths: i64) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: hundredths * 1000,
        ..memory(mib)
    }
}

async fn number(container: &Container<'_>, script: &str) -> u64 {
    let seen = container.exec(script).await;
    seen.out.parse().unwrap_or_else(|_| panic!("{seen:?}"))
}

/// MiB of the guest.
const GUEST_MEMORY: &str = "awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo";

#[tokio::test]
async fn a_pod_outgrows_the_machine_it_started_with() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    bound(&node.pod_group("memory"), 400 << 20);
    let pod = node
        .pod_with("grown", |config| {
            config.linux.as_mut().unwrap().resources = Some(both(64, 100));
        })
        .await
        .unwrap();
    let app = pod.start_with("app", "sleep 1000", limited(memory(32)));
    let app = app.await.unwrap();
    let other = pod.start_with("other", "sleep 1000", limited(both(32, 50)));
    let other = other.await.unwrap();
    let before = number(&app, GUEST_MEMORY).await;
    assert_eq!(number(&app, "nproc").await, 1);
    assert_ne!(take(&app, 120).await, 0);

    // What both need, not each for itself.
    update(&node, &app, memory(200)).await.unwrap();
    assert_eq!(take(&app, 120).await, 0);
    update(&node, &other, both(32, 150)).await.unwrap();
    assert_eq!(other.exec("echo well").await.out, "well");
    let after = number(&app, GUEST_MEMORY).await;
    assert!(after >= before + 128, "{before} MiB became {after}");
    let host = std::thread::available_parallelism().unwrap().get();
    assert_eq!(number(&app, "nproc").await, 2.min(host as u64));

    // A machine stays as it is when limits are lowered, and the limits hold.
    update(&node, &app, memory(32)).await.unwrap();
    assert_ne!(take(&app, 80).await, 0);
    assert_eq!(number(&app, GUEST_MEMORY).await, after);

    // The pod's own limit has to be raised first.
    let early = update(&node, &app, memory(500)).await.unwrap_err();
    assert!(early.message().contains("control group"), "{early}");
    bound(&node.pod_group("memory"), 2048 << 20);
    update(&node, &app, memory(500)).await.unwrap();
    assert_eq!(take(&app, 300).await, 0);
    assert_eq!(other.exec("echo well").await.out, "well");
    pod.remove().await.unwrap();
}

/// The machine is what bounds a pod that has no limit: it does not grow.
#[tokio::test]
async fn a_pod_nobody_bounds_has_the_machine_it_started_with() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let pod = node.pod("unbounded").await;
    let app = pod.start("app", "sleep 1000").await;
    let words = arguments(node.monitor_of(&pod)).join(" ");
    let one = [" -m 512M -smp 1 ", " -m 512M -smp 1,"];
    assert!(one.iter().any(|own| words.contains(own)), "{words}");
    let text = update(&node, &app, memory(2048)).await.unwrap_err();
    assert!(text.message().contains("cannot grow"), "{text}");
    pod.remove().await.unwrap();
}

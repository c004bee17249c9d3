//! Block volumes: block devices of the node as devices of a pod's containers.

use std::time::Duration;

use bulkhead_e2e::cri::{ContainerConfig, Device};
use bulkhead_e2e::{LoopDevice, Node, in_machine, tool};

/// How long containerd may take to have the shim clean up.
const SOON: Duration = Duration::from_secs(10);

/// As the kubelet asks for a `volumeDevices` of a pod.
fn volume(disk: &LoopDevice, path: &str, permissions: &str) -> impl FnOnce(&mut ContainerConfig) {
    let device = Device {
        container_path: path.to_owned(),
        host_path: disk.path.clone(),
        permissions: permissions.to_owned(),
    };
    move |config| config.devices.push(device)
}

/// A block of the words, at a block of the disk.
fn write(words: &str, path: &str, block: u32) -> String {
    format!("echo {words} | dd of={path} bs=512 seek={block} conv=notrunc,fsync 2>&1")
}

fn read(path: &str, block: u32) -> String {
    format!("dd if={path} bs=512 skip={block} count=1 2>/dev/null | head -n 1")
}

#[tokio::test]
async fn a_block_volume_is_a_disk_of_the_pod_and_outlives_it() {
    let node = Node::start().await;
    let disk = LoopDevice::new(node.path(), "volume", 16);
    let pod = node.pod("database").await;
    let container = pod
        .start_with("db", "sleep 1000", volume(&disk, "/dev/data", "mrw"))
        .await
        .unwrap();
    let kind = container.exec("ls -l /dev/data | head -c 1").await;
    assert_eq!(kind.out, "b", "{kind:?}");
    let size = container.exec("blockdev --getsize64 /dev/data").await;
    assert_eq!(size.out, (16 << 20).to_string(), "{size:?}");
    let written = container.exec(&write("kept", "/dev/data", 4)).await;
    assert_eq!(written.code, 0, "{written:?}");
    assert_eq!(disk.read(4 * 512, 4), "kept");

    // Another container of the pod sees the same disk, not a copy.
    let other = pod
        .start_with("reader", "sleep 1000", volume(&disk, "/dev/other", "mrw"))
        .await
        .unwrap();
    assert_eq!(other.exec(&read("/dev/other", 4)).await.out, "kept");
    let again = other.exec(&write("news", "/dev/other", 4)).await;
    assert_eq!(again.code, 0, "{again:?}");
    assert_eq!(container.exec(&read("/dev/data", 4)).await.out, "news");

    // One that was not given it cannot open it, whatever it calls it.
    let stranger = pod.start("stranger", "sleep 1000").await;
    let tried = "for n in $(seq 0 16 240); do for m in 252 253 254 259 7; do \
                 mknod /tmp/$m-$n b $m $n && head -c 4 /tmp/$m-$n; done; done 2>/dev/null";
    assert_eq!(stranger.exec(tried).await.out, "");

    // With its last user the node gets its device back, and the pod goes on.
    container.stop(0).await.unwrap();
    container.remove().await.unwrap();
    assert_eq!(other.exec(&read("/dev/other", 4)).await.out, "news");
    other.stop(0).await.unwrap();
    other.remove().await.unwrap();
    if in_machine() {
        assert_eq!(disk.users(), Vec::<String>::new());
    }
    let next = pod
        .start_with("next", "sleep 1000", volume(&disk, "/dev/data", "mrw"))
        .await
        .unwrap();
    assert_eq!(next.exec(&read("/dev/data", 4)).await.out, "news");
    pod.remove().await.unwrap();
    assert_eq!(disk.users(), Vec::<String>::new());
}

#[tokio::test]
async fn a_block_volume_grows_while_it_is_used() {
    let node = Node::start().await;
    let disk = LoopDevice::new(node.path(), "volume", 16);
    let pod = node.pod("database").await;
    let container = pod
        .start_with("db", "sleep 1000", volume(&disk, "/dev/data", "mrw"))
        .await
        .unwrap();
    let size = || container.exec("blockdev --getsize64 /dev/data");
    assert_eq!(size().await.out, (16 << 20).to_string());
    disk.grow(24);
    let wanted = (24 << 20).to_string();
    let deadline = std::time::Instant::now() + SOON;
    while size().await.out != wanted {
        assert!(std::time::Instant::now() < deadline, "{:?}", size().await);
    }
    let end = (24 << 11) - 1;
    let written = container.exec(&write("more", "/dev/data", end)).await;
    assert_eq!(written.code, 0, "{written:?}");
    assert_eq!(disk.read(u64::from(end) * 512, 4), "more");
    pod.remove().await.unwrap();
}

#[tokio::test]
async fn a_read_only_block_volume_is_read_only_whatever_is_tried() {
    let node = Node::start().await;
    let disk = LoopDevice::new(node.path(), "volume", 4);
    tool("/bin/sh", &["-c", &write("kept", &disk.path, 0)]);
    let pod = node.pod("reader").await;
    let container = pod
        .start_with("reader", "sleep 1000", volume(&disk, "/dev/data", "mr"))
        .await
        .unwrap();
    assert_eq!(container.exec(&read("/dev/data", 0)).await.out, "kept");
    let written = container.exec(&write("lost", "/dev/data", 0)).await;
    assert_ne!(written.code, 0, "{written:?}");
    if in_machine() {
        // Even its own kernel could not write: the descriptor cannot.
        let flags = |pid: &String| {
            let fds = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
            let links = fds.flatten().filter(|fd| {
                let link = format!("/proc/{pid}/fd/{}", fd.file_name().display());
                std::fs::read_link(link).is_ok_and(|at| at.ends_with("device"))
            });
            let texts = links.map(|fd| std::fs::read_to_string(fd.path()).unwrap());
            texts.collect::<Vec<_>>()
        };
        let users = disk.users();
        let all: Vec<String> = users.iter().flat_map(flags).collect();
        assert!(!all.is_empty(), "{users:?}");
        for text in all {
            let word = text.lines().find(|line| line.starts_with("flags:"));
            assert!(word.unwrap().ends_with('0'), "{text}");
        }
    }
    pod.remove().await.unwrap();
    assert_eq!(disk.read(0, 4), "kept");
}

#[tokio::test]
async fn more_volumes_than_there_is_room_for_are_refused_and_nothing_is_left() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let disks: Vec<_> = (0..5)
        .map(|number| LoopDevice::new(node.path(), &format!("volume{number}"), 1))
        .collect();
    let pod = node.pod("greedy").await;
    let all = |config: &mut ContainerConfig| {
        for disk in &disks {
            volume(disk, &format!("/dev/data{}", config.devices.len()), "mrw")(config);
        }
    };
    let refused = pod
        .start_with("greedy", "sleep 1000", all)
        .await
        .unwrap_err();
    assert!(refused.message().contains("4 writable"), "{refused}");
    // What was plugged in before the fifth is taken away again: there is room.
    let four = |config: &mut ContainerConfig| {
        all(config);
        config.devices.truncate(4);
    };
    let container = pod.start_with("modest", "sleep 1000", four).await.unwrap();
    assert_eq!(container.exec("ls /dev/data* | wc -l").await.out, "4");
    assert!(disks[4].users().is_empty());
    pod.remove().await.unwrap();
    assert!(disks.iter().all(|disk| disk.users().is_empty()));
}

#[tokio::test]
async fn a_killed_shim_gives_the_node_its_device_back() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let disk = LoopDevice::new(node.path(), "volume", 1);
    let pod = node.pod("victim").await;
    let container = pod
        .start_with("worker", "sleep 1000", volume(&disk, "/dev/data", "mrw"))
        .await
        .unwrap();
    assert_ne!(disk.users(), Vec::<String>::new());
    for pid in node.shims() {
        tool("kill", &["-9", &pid.to_string()]);
    }
    assert_ne!(container.ended().await.exit_code, 0);
    pod.remove().await.unwrap();
    assert_eq!(node.left_after(SOON).await, Vec::<String>::new());
    assert_eq!(disk.users(), Vec::<String>::new());
}

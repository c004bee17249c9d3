//! Volumes as the kubelet makes them. Every test passes with runc too
//! (`BULKHEAD_E2E_HANDLER=runc`).

use std::path::Path;
use std::time::Duration;

use bulkhead_e2e::kubelet::{PodDir, mount, with_volumes};
use bulkhead_e2e::{Node, in_machine, tool};
use k8s_cri::v1::{Mount, MountPropagation};

/// How long a program that watches a volume may wait for news.
const NEWS: Duration = Duration::from_secs(1);

/// Where the C library of this machine is, for a program of this machine.
const LIBRARIES: [&str; 2] = ["/lib/x86_64-linux-gnu", "/lib64"];

#[tokio::test]
async fn an_empty_dir_in_memory_is_the_pods_and_has_its_size_and_owner() {
    let mut kubelet = PodDir::new("cached");
    let cache = kubelet.tmpfs("empty-dir", "cache", "size=8m");
    // As the kubelet applies an fsGroup.
    let path = cache.display().to_string();
    tool("chown", &["0:1234", &path]);
    tool("chmod", &["2777", &path]);
    let part = kubelet.sub_path(&cache, "a/b");
    tool("chmod", &["2775", &part.display().to_string()]);
    let secret = kubelet.tmpfs("secret", "password", "size=1m");
    std::fs::write(secret.join("key"), "old").unwrap();
    let disk = kubelet.volume("empty-dir", "disk");
    let large = kubelet.tmpfs("empty-dir", "large", "size=20g");
    let node = Node::start().await;
    let pod = node.pod("cached").await;

    let own = vec![mount(&cache, "/cache", false)];
    let init = pod
        .start_with(
            "init",
            "echo first > /cache/init; stat -c '%u %g %a' /cache",
            with_volumes(own),
        )
        .await
        .unwrap();
    assert_eq!(init.ended().await.exit_code, 0);
    assert_eq!(init.log(), "stdout 0 1234 2777\n");
    init.remove().await.unwrap();

    let app = vec![
        mount(&cache, "/cache", false),
        mount(&secret, "/secret", true),
        mount(&disk, "/disk", false),
        mount(&large, "/large", false),
    ];
    let app = pod
        .start_with("app", "sleep 1000", with_volumes(app))
        .await
        .unwrap();
    let other = vec![mount(&cache, "/cache", true), mount(&part, "/part", false)];
    let other = pod
        .start_with("other", "sleep 1000", with_volumes(other))
        .await
        .unwrap();
    let seen = app
        .exec("cat /cache/init; touch /cache/new; stat -c %g /cache/new; df -k /cache | tail -1")
        .await;
    let lines: Vec<&str> = seen.out.lines().collect();
    assert_eq!(lines[..2], ["first", "1234"], "{seen:?}");
    assert!(lines[2].starts_with("tmpfs"), "{seen:?}");
    assert!(lines[2].contains(" 8192 "), "{seen:?}");
    let full = app
        .exec("dd if=/dev/zero of=/cache/full bs=1M count=9; rm /cache/full")
        .await;
    assert!(full.err.contains("No space left"), "{full:?}");

    // The other container has it read-only, and a part of it writable.
    let seen = other
        .exec("cat /cache/init; echo x > /cache/x; stat -c '%g %a' /part; echo y > /part/y")
        .await;
    assert_eq!(seen.out, "first\n1234 2775", "{seen:?}");
    assert!(seen.err.contains("Read-only file system"), "{seen:?}");
    assert_eq!(app.exec("cat /cache/a/b/y").await.out, "y");
    // In the guest's memory: on the host there is nothing of it.
    assert_eq!(cache.join("init").exists(), !in_machine());
    assert_eq!(part.join("y").exists(), !in_machine());

    // None is larger than what the containers of a pod have.
    let seen = app.exec("df -k /large | tail -1").await.out;
    let size: u64 = seen.split_whitespace().nth(1).unwrap().parse().unwrap();
    let most = if in_machine() { 512 << 10 } else { 20 << 20 };
    assert!(size <= most && size > most / 2, "{seen}");

    // A secret is a tmpfs as well, and stays what the kubelet says.
    std::fs::write(secret.join("key"), "new").unwrap();
    assert_eq!(app.exec("cat /secret/key").await.out, "new");
    assert_eq!(app.exec("echo on-disk > /disk/file").await.code, 0);
    assert_eq!(
        std::fs::read_to_string(disk.join("file")).unwrap(),
        "on-disk\n"
    );
    pod.remove().await.unwrap();
}

#[tokio::test]
async fn what_is_in_memory_counts_for_who_wrote_it() {
    let mut kubelet = PodDir::new("counted");
    let cache = kubelet.tmpfs("empty-dir", "cache", "size=64m");
    let node = Node::start().await;
    let pod = node.pod("counted").await;
    let own = || with_volumes(vec![mount(&cache, "/cache", false)]);
    let app = pod.start_with("app", "sleep 1000", own()).await.unwrap();
    let other = pod.start_with("other", "sleep 1000", own()).await.unwrap();
    let (before, beside) = (app.memory().await, other.memory().await);
    let written = app
        .exec("dd if=/dev/zero of=/cache/full bs=1M count=32")
        .await;
    assert_eq!(written.code, 0, "{written:?}");
    let (after, now) = (app.memory().await, other.memory().await);
    assert!(after >= before + (32 << 20), "{before} {after}");
    assert!(now < beside + (8 << 20), "{beside} {now}");
    pod.remove().await.unwrap();
}

#[tokio::test]
async fn a_tmpfs_of_anybody_else_stays_the_hosts() {
    // A volume of another pod, and a directory inside of one.
    let mut kubelet = PodDir::new("somebody-else");
    let cache = kubelet.tmpfs("empty-dir", "cache", "size=8m");
    let inside = cache.join("inside");
    std::fs::create_dir(&inside).unwrap();
    let node = Node::start().await;
    let pod = node.pod("curious").await;
    let mounts = vec![
        mount(&cache, "/cache", false),
        mount(&inside, "/inside", false),
    ];
    let app = pod
        .start_with("app", "sleep 1000", with_volumes(mounts))
        .await
        .unwrap();
    std::fs::write(cache.join("told"), "by the host").unwrap();
    let seen = app.exec("cat /cache/told; echo well > /inside/file").await;
    assert_eq!(seen.out, "by the host", "{seen:?}");
    assert_eq!(
        std::fs::read_to_string(inside.join("file")).unwrap(),
        "well\n"
    );
    pod.remove().await.unwrap();
}

#[tokio::test]
async fn who_watches_its_configuration_is_told_of_a_new_one() {
    let kubelet = PodDir::new("told");
    let map = kubelet.volume("configmap", "settings");
    PodDir::exchange(&map, "..2026_1", &[("key", "old"), ("gone", "x")]);
    let node = Node::start().await;
    let pod = node.pod("told").await;
    // The init container's share of the volume ends with it; the pod's does not.
    let own = vec![mount(&map, "/settings", true)];
    let init = pod
        .start_with("init", "cat /settings/key", with_volumes(own))
        .await
        .unwrap();
    assert_eq!(init.ended().await.exit_code, 0);
    assert_eq!(init.log(), "stdout old\n");
    init.remove().await.unwrap();

    let program = Path::new(env!("CARGO_BIN_EXE_watch"));
    let mut mounts = vec![
        mount(&map, "/settings", true),
        mount(program, "/bin/watch-files", true),
    ];
    mounts.extend(LIBRARIES.map(|path| mount(Path::new(path), path, true)));
    let watcher = pod
        .start_with(
            "watcher",
            "exec /bin/watch-files /settings",
            with_volumes(mounts),
        )
        .await
        .unwrap();
    watcher
        .says("stdout watching", Duration::from_secs(20))
        .await;
    PodDir::exchange(&map, "..2026_2", &[("key", "new"), ("more", "y")]);
    let took = watcher.says("stdout moved-to ..data", NEWS).await;
    println!("told after {took:?}");
    watcher.says("stdout create more", NEWS).await;
    watcher.says("stdout delete gone", NEWS).await;
    let seen = watcher
        .exec("cat /settings/key /settings/more; ls -A /settings; echo x > /settings/key")
        .await;
    assert_eq!(seen.out, "newy..2026_2\n..data\nkey\nmore", "{seen:?}");
    assert!(seen.err.contains("Read-only file system"), "{seen:?}");

    // An older kubelet sets modes after the exchange.
    tool("chmod", &["0440", &map.join("key").display().to_string()]);
    tool(
        "chmod",
        &["2755", &map.join("..data/").display().to_string()],
    );
    watcher.says("stdout attrib ..2026_2", NEWS).await;
    let seen = watcher
        .exec("stat -L -c %a /settings/key /settings/..data")
        .await;
    assert_eq!(seen.out, "440\n2755");
    pod.remove().await.unwrap();
}

#[tokio::test]
async fn a_volume_of_huge_pages_is_refused_by_name() {
    let mut kubelet = PodDir::new("huge");
    let pages = kubelet.huge_pages("pages", "pagesize=2M");
    let node = Node::start().await;
    let pod = node.pod("huge").await;
    let given = || with_volumes(vec![mount(&pages, "/pages", false)]);
    let started = pod.start_with("app", "sleep 1000", given()).await;
    if in_machine() {
        let text = started.unwrap_err().message().to_owned();
        assert!(text.contains("huge pages"), "{text}");
        let other = pod.start("other", "sleep 1000").await;
        assert_eq!(other.exec("echo well").await.out, "well");
    } else {
        started.unwrap();
    }
    pod.remove().await.unwrap();
}

#[tokio::test]
async fn what_the_host_mounts_later_stays_the_hosts() {
    let mut kubelet = PodDir::new("later");
    let host = kubelet.shared("host");
    let (early, late) = (host.join("early"), host.join("late"));
    std::fs::create_dir(&early).unwrap();
    std::fs::create_dir(&late).unwrap();
    kubelet.mounts(&early, "first");
    let node = Node::start().await;
    let pod = node.pod("later").await;
    let start = |name, mount| pod.start_with(name, "sleep 1000", with_volumes(vec![mount]));
    let follows = Mount {
        propagation: MountPropagation::PropagationHostToContainer.into(),
        ..mount(&host, "/host", false)
    };
    let follower = start("follower", follows).await.unwrap();
    let other = start("other", mount(&host, "/host", false)).await.unwrap();
    for app in [&follower, &other] {
        assert_eq!(app.exec("ls /host /host/late").await.code, 0);
        assert_eq!(app.exec("cat /host/early/first").await.out, "first");
    }

    kubelet.mounts(&late, "second");
    let looks = "sleep 2; ls -A /host/late";
    assert_eq!(other.exec(looks).await.out, "");
    let followed = follower.exec(looks).await.out;
    assert_eq!(followed, if in_machine() { "" } else { "second" });
    // Who looked does not keep the host from unmounting.
    kubelet.unmounts();
    assert_eq!(follower.exec("ls -A /host/late").await.out, "");
    assert_eq!(other.exec("cat /host/early/first").await.out, "first");
    pod.remove().await.unwrap();
}

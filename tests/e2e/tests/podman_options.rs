//! What Podman is asked for a container to have. The same holds with runc, but for what
//! only a machine has.

use bulkhead_e2e::{Answer, PODMAN_IMAGE, Podman, in_machine, soon};

#[test]
fn limits_volumes_and_ports_are_its_own() {
    let podman = Podman::start();
    if in_machine() {
        let script = "grep MemTotal /proc/meminfo; nproc";
        let sized = podman.run(&["--memory", "600m", "--cpus", "2"], script);
        let mut lines = sized.out.lines();
        let total = lines.next().unwrap().split_whitespace().nth(1).unwrap();
        let total: u64 = total.parse().unwrap();
        assert!((500_000..900_000).contains(&total), "{sized:?}");
        // No more than the host has.
        let vcpus = std::thread::available_parallelism().unwrap().get().min(2);
        assert_eq!(lines.next(), Some(vcpus.to_string().as_str()), "{sized:?}");
    }
    let volume = podman.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let bind = format!("{}:/data", volume.display());
    let wrote = podman.run(
        &["--volume", &bind, "--user", "7:8"],
        "id -u; touch /data/no",
    );
    assert_eq!(wrote.out, "7", "{wrote:?}");
    assert_eq!(
        podman.run(&["--volume", &bind], "echo v > /data/file").code,
        0
    );
    assert_eq!(std::fs::read_to_string(volume.join("file")).unwrap(), "v\n");

    // Only read, the host's directory too.
    let script = "echo x > /tmp/file && ! touch /etc/file 2> /dev/null && cat /etc/hosts | wc -l";
    let read = podman.run(&["--read-only"], script);
    assert_eq!(read.code, 0, "{read:?}");

    podman.begin(
        "web",
        &["--publish", "18080:80"],
        "mkdir /www; echo served > /www/index.html; httpd -f -p 80 -h /www",
    );
    let address = podman.fact("web", "{{.NetworkSettings.IPAddress}}");
    let get = |place: &str| {
        let url = format!("http://{place}/index.html");
        Answer::of(&mut podman.inside("busybox", &["wget", "-q", "-O", "-", &url])).out
    };
    soon("it serves", || get(&address) == "served");
    let gateway = podman.fact("web", "{{.NetworkSettings.Gateway}}");
    assert_eq!(get(&format!("{gateway}:18080")), "served");
}

#[test]
fn images_and_overlays_are_mounted() {
    let podman = Podman::start();
    let image = format!("type=image,source={PODMAN_IMAGE},dst=/image");
    let listed = podman.run(
        &["--mount", &image],
        "ls /image; touch /image/x || echo only read",
    );
    assert!(listed.out.starts_with("bin\n"), "{listed:?}");
    assert!(listed.out.ends_with("only read"), "{listed:?}");

    let lower = podman.path().join("lower");
    std::fs::create_dir(&lower).unwrap();
    std::fs::write(lower.join("file"), "below").unwrap();
    let over = format!("{}:/over:O", lower.display());
    let script = "cat /over/file; echo above > /over/file; cat /over/file";
    let wrote = podman.run(&["--volume", &over], script);
    assert_eq!(wrote.out, "belowabove", "{wrote:?}");
    let left = std::fs::read_to_string(lower.join("file")).unwrap();
    assert_eq!(left, "below");
}

#[test]
fn users_may_be_others_outside() {
    let podman = Podman::start();
    let maps = ["--uidmap", "0:200000:1000", "--gidmap", "0:200000:1000"];
    let script = "id -u; cat /proc/self/uid_map; touch /own && stat -c %u /own; ls /sys/class/net";
    let mapped = podman.run(&maps, script);
    assert_eq!(mapped.code, 0, "{mapped:?}");
    let words: Vec<_> = mapped.out.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "200000", "1000", "0", "lo"]);
}

#[test]
fn control_groups_are_the_containers_own() {
    let podman = Podman::start();
    if in_machine() {
        let script = "cat /proc/self/cgroup /sys/fs/cgroup/pids.max; mkdir /sys/fs/cgroup/own";
        let seen = podman.run(&["--pids-limit", "20"], script);
        assert_eq!(seen.out, "0::/\n20");
        assert_ne!(seen.code, 0, "{seen:?}");
    }
    // An init system makes groups, whichever version the host has.
    let script = "mkdir /sys/fs/cgroup/own || mkdir /sys/fs/cgroup/systemd/own";
    let made = podman.run(&["--systemd", "always"], script);
    assert_eq!(made.code, 0, "{made:?}");
}

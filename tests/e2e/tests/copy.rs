//! Files copied in and out of a running container.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use bulkhead_e2e::Host;

#[test]
fn trees_and_files_go_both_ways() {
    let host = Host::new();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let text = |name: &str| at(name).display().to_string();
    std::fs::create_dir_all(at("tree/sub")).unwrap();
    std::fs::write(at("tree/sub/file"), "from the host").unwrap();
    std::fs::set_permissions(at("tree/sub/file"), PermissionsExt::from_mode(0o754)).unwrap();
    symlink("sub/file", at("tree/link")).unwrap();
    let large = vec![7; 20 << 20];
    std::fs::write(at("large"), &large).unwrap();
    // Another user, and a root that cannot be written: neither matters to cp.
    let options = ["--network", "none", "--user", "web", "--tmpfs", "/data"];
    host.start("box", &options, "sleep 600");
    let cp = |from: &str, to: &str| host.bulkhead(&["cp", from, to]);
    for (from, to) in [
        (text("tree"), "box:/data"),
        (text("tree"), "box:/data/new"),
        (text("tree/."), "box:/home"),
        (text("large"), "box:/data/large"),
    ] {
        let answer = cp(&from, to);
        assert_eq!(answer.code, 0, "{from} {to}: {answer:?}");
    }
    let looked = host.exec(
        "box",
        "cat /data/tree/link /data/new/sub/file /home/link; stat -c ' %a %u' /data/tree/sub/file",
    );
    let expected = "from the host".repeat(3) + " 754 0";
    assert_eq!(looked.out, expected, "{looked:?}");
    assert_eq!(cp("box:/data/large", &text("back")).code, 0);
    assert!(std::fs::read(at("back")).unwrap() == large);
    assert_eq!(
        cp("box:/data/tree", dir.path().join("out").to_str().unwrap()).code,
        0
    );
    assert_eq!(std::fs::read(at("out/link")).unwrap(), b"from the host");
    assert_eq!(cp("box:etc/passwd", dir.path().to_str().unwrap()).code, 0);
    let passwd = std::fs::read_to_string(at("passwd")).unwrap();
    assert!(passwd.starts_with("root:"), "{passwd}");
}

#[test]
fn what_cannot_be_copied_is_named_and_a_hostile_guest_writes_nowhere_else() {
    let host = Host::new();
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().display().to_string();
    host.start("box", &["--network", "none"], "sleep 600");
    let refused = |from: &str, to: &str, why: &str| {
        let answer = host.bulkhead(&["cp", from, to]);
        assert_eq!(answer.code, 125, "{answer:?}");
        assert!(answer.err.contains(why), "{why}: {answer:?}");
    };
    refused("box:/nosuch", &here, "`/nosuch`");
    refused(&format!("{here}/nosuch"), "box:/tmp", "nosuch");
    refused(&here, "box:/no/such/place", "`/no/such` does not exist");
    refused("box:/etc/passwd", &format!("{here}/a/b"), "does not exist");
    refused(&here, "/tmp", "neither");
    refused("gone:/etc", &here, "gone");
    // Device nodes and setuid bits stay in the guest.
    let made = host.exec(
        "box",
        "mkdir /tmp/evil && cp /bin/busybox /tmp/evil/su && chmod 4755 /tmp/evil/su && \
         mkfifo /tmp/evil/pipe && ln -s /etc/passwd /tmp/evil/link",
    );
    assert_eq!(made.code, 0, "{made:?}");
    assert_eq!(host.bulkhead(&["cp", "box:/tmp/evil", &here]).code, 0);
    let copied = dir.path().join("evil");
    let mode = copied.join("su").metadata().unwrap().mode();
    assert_eq!(mode & 0o7777, 0o755);
    assert!(copied.join("link").symlink_metadata().unwrap().is_symlink());
    // A second copy does not write through the link the first one made.
    let made = host.exec("box", "rm /tmp/evil/link && echo evil > /tmp/evil/link");
    assert_eq!(made.code, 0, "{made:?}");
    let before = std::fs::read("/etc/passwd").unwrap();
    let _ = host.bulkhead(&["cp", "box:/tmp/evil", &here]);
    assert!(std::fs::read("/etc/passwd").unwrap() == before);
}

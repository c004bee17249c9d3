//! What a monitor sees of its host, from the host.

use std::path::PathBuf;

use bulkhead_e2e::Host;

#[test]
fn a_running_monitor_has_an_empty_root_and_namespaces_of_its_own() {
    let host = Host::new();
    host.start("cell", &["--network", "none"], "sleep 600");
    let pid = host.state("cell")["vmm_pid"].as_u64().unwrap();
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let entries = std::fs::read_dir(proc.join("root/")).unwrap();
    assert_eq!(entries.count(), 0);
    let mounts = std::fs::read_to_string(proc.join("mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    let fields: Vec<&str> = mounts.split_whitespace().collect();
    assert_eq!(fields[4], "/");
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(fields[5].split(',').any(|word| word == option), "{mounts}");
    }
    let read = |path: PathBuf| std::fs::read_link(path).unwrap();
    assert_eq!(read(proc.join("cwd")), PathBuf::from("/"));
    for kind in ["mnt", "net", "ipc", "uts"] {
        let own = read(PathBuf::from(format!("/proc/self/ns/{kind}")));
        assert_ne!(read(proc.join("ns").join(kind)), own, "{kind}");
    }
    // All of the machine still works: disks, channel, stopping and going on.
    let written = host.exec(
        "cell",
        "dd if=/dev/zero of=/x bs=1M count=8 2>/dev/null; sync; wc -c < /x",
    );
    assert_eq!(written.out, "8388608", "{written:?}");
    for word in ["pause", "unpause"] {
        assert_eq!(host.bulkhead(&[word, "cell"]).code, 0);
    }
    assert_eq!(host.exec("cell", "echo well").out, "well");
}

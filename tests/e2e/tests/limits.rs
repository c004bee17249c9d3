//! Limits end where they are set, and nothing else notices.

use bulkhead_e2e::Host;

#[test]
fn too_much_memory_kills_the_container_and_says_so() {
    let host = Host::new();
    let answer = host.run(
        &["--memory", "32m"],
        "x=$(head -c 100000000 /dev/zero | tr '\\0' a); echo no",
    );
    assert_eq!(answer.code, 137, "{answer:?}");
    assert!(answer.err.contains("out of memory"), "{answer:?}");
}

#[test]
fn a_full_writable_layer_is_an_error_in_the_container() {
    let host = Host::new();
    let answer = host.run(
        &["--storage", "32m"],
        "dd if=/dev/zero of=/x bs=1M count=64; rm /x; echo still here > /y && cat /y",
    );
    assert!(answer.err.contains("No space left on device"), "{answer:?}");
    assert_eq!(answer.out, "still here");
}

#[test]
fn processes_are_limited() {
    let host = Host::new();
    let answer = host.run(
        &["--pids-limit", "10"],
        "cat /sys/fs/cgroup/pids.max; for i in $(seq 20); do sleep 9 & done; echo $(jobs | wc -l)",
    );
    assert!(answer.out.starts_with("10"), "{answer:?}");
    assert!(answer.err.contains("fork"), "{answer:?}");
}

#[test]
fn processor_and_memory_limits_are_seen_in_the_containers_own_cgroup() {
    let host = Host::new();
    let answer = host.run(
        &["--cpus", "0.5", "--memory", "64m"],
        "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/memory.max; cat /proc/self/cgroup",
    );
    assert_eq!(answer.out, "50000 100000\n67108864\n0::/", "{answer:?}");
}

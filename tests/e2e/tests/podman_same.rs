//! The reference for every behaviour is what the same call does with runc: what a
//! container says and how it ends, for one option after the other, with both.

use std::process::Command;
use std::sync::Mutex;

use bulkhead_e2e::{Answer, Podman, in_machine};

/// Beside each other. Two processors are enough for three that mostly wait.
const WORKERS: usize = 3;

/// What Podman 4.3 itself does not do beside anything else, with any runtime: it takes the
/// lock of its storage last here, and first elsewhere, and all wait for each other.
const ALONE: (&str, &str) = ("--userns auto", "echo ok");

/// Options, and a script that tells what became of them; `@DIR` is a directory of the
/// host's with the files `file` and `read`.
const CASES: [(&str, &str); 53] = [
    // Who the process is, and what it may.
    ("--user 1000:1000", "id"),
    ("--user nobody", "id -u"),
    ("--group-add 12 --group-add audio", "id -G"),
    (
        "--passwd-entry me:x:1234:1234::/:/bin/sh --user 1234",
        "id -un",
    ),
    (
        "--cap-drop all --cap-add net_bind_service",
        "grep Cap /proc/self/status",
    ),
    ("--cap-add bpf,sys_admin", "grep CapEff /proc/self/status"),
    ("--user 5 --cap-add net_admin", "grep Cap /proc/self/status"),
    ("", "grep -E 'Cap|Seccomp:|NoNewPrivs' /proc/self/status"),
    (
        "--security-opt seccomp=unconfined",
        "grep Seccomp: /proc/self/status",
    ),
    (
        "--security-opt no-new-privileges",
        "grep NoNewPrivs /proc/self/status",
    ),
    (
        "--privileged",
        "grep CapEff /proc/self/status; mount -t tmpfs x /mnt && echo mounted",
    ),
    ("--umask 0077", "umask; touch /own; stat -c %a /own"),
    ("--oom-score-adj 100", "cat /proc/self/oom_score_adj"),
    // What it is told.
    ("--workdir /var/new", "pwd; ls -ld . | cut -c1-10"),
    ("--env X=a", "echo $X; echo $HOME $container"),
    (
        "--hostname foo",
        "hostname; cat /etc/hostname; grep -c foo /etc/hosts",
    ),
    ("--tz Asia/Tokyo", "date +%Z"),
    (
        "--env-host=false --http-proxy=false",
        "env | grep -ci proxy",
    ),
    (
        "--add-host bar:192.0.2.4 --network none",
        "grep 192.0.2.4 /etc/hosts",
    ),
    (
        "--dns 192.0.2.9 --dns-search x.y --network podman",
        "cat /etc/resolv.conf",
    ),
    // What it has.
    (
        "--tmpfs /t:size=1m,mode=700",
        "df -k /t | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2; stat -c %a /t",
    ),
    (
        "--mount type=tmpfs,dst=/t,tmpfs-size=2m",
        "df -k /t | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2",
    ),
    (
        "--shm-size 7m",
        "df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2",
    ),
    (
        "--volume @DIR:/v",
        "echo hi > /v/new; cat /v/new; stat -c %u /v/new",
    ),
    ("--volume @DIR:/v:ro", "touch /v/no || echo only read"),
    ("--volume named:/data", "touch /data/x && ls /data"),
    ("--volume /anonymous", "touch /anonymous/x && ls /anonymous"),
    ("--volume copied:/etc", "test -s /etc/passwd && echo there"),
    (
        "--volume @DIR/file:/etc/own",
        "echo more > /etc/own; cat /etc/own",
    ),
    (
        "--mount type=bind,src=@DIR/read,dst=/etc/own,ro",
        "cat /etc/own; echo x >> /etc/own || echo no",
    ),
    (
        "--read-only",
        "touch /x; for i in tmp run dev/shm; do touch /$i/x && echo $i; done",
    ),
    (
        "--read-only --read-only-tmpfs=false",
        "touch /tmp/x || echo no",
    ),
    (
        "--device /dev/null:/dev/own",
        "echo x > /dev/own && ls -l /dev/own | cut -c1-10",
    ),
    ("--device /dev/fuse", "ls -l /dev/fuse | cut -c1-10"),
    (
        "",
        "ls /dev; ls -ld /dev /proc /sys /dev/pts /dev/mqueue | cut -c1-10",
    ),
    (
        "--ulimit nofile=100:200 --ulimit nproc=500:600",
        "ulimit -n; ulimit -Hn; ulimit -p",
    ),
    ("--memory 256m --memory-swap 256m", "echo ok"),
    (
        "--cpus 0.5 --cpuset-cpus 0",
        "grep Cpus_allowed_list /proc/self/status",
    ),
    ("--blkio-weight 200", "echo ok"),
    // What is kept from it.
    (
        "",
        "head -c 1 /proc/kcore | wc -c; ls /proc/scsi /sys/firmware | wc -l",
    ),
    ("", "echo 1 > /proc/sys/kernel/panic || echo only read"),
    ("--security-opt mask=/etc/passwd", "wc -c < /etc/passwd"),
    (
        "--security-opt unmask=ALL",
        "ls /sys/firmware > /dev/null && echo seen",
    ),
    ("", "hostname other 2>&1; chroot / echo in"),
    (
        "--sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=7000",
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax",
    ),
    // Its network.
    (
        "--network podman --ip 10.77.0.99 --mac-address 02:aa:bb:cc:dd:ee",
        "ip -4 addr show eth0 | grep -o 'inet [0-9./]*'; cat /sys/class/net/eth0/address; ip route | head -n 1",
    ),
    (
        "--network podman --cap-add net_admin",
        "ip link add own type veth peer name other && ip link show own | wc -l",
    ),
    (
        "--network none",
        "ping -c 1 127.0.0.1 | grep -c '1 packets received'",
    ),
    // How it ends.
    ("", "exit 42"),
    ("", "kill -9 $$"),
    (
        "--init",
        "cat /proc/1/comm; kill -TERM $$; sleep 1; echo after",
    ),
    ("--timeout 2", "sleep 100"),
    ("--tty", "tty; stty size"),
];

fn answers(
    podman: &Podman,
    options: &str,
    script: &str,
    with: impl Fn(&[&str]) -> Command,
) -> Answer {
    let dir = podman.path().join("shared").display().to_string();
    let options = options.replace("@DIR", &dir);
    let mut own: Vec<_> = options.split(' ').filter(|word| !word.is_empty()).collect();
    if !own.contains(&"--network") {
        own.extend(["--network", "none"]);
    }
    let words = podman.words("run", &[&["--rm"], &own[..]].concat(), script);
    Answer::of(&mut with(&words))
}

#[test]
fn whatever_is_asked_the_answer_is_runcs() {
    if !in_machine() {
        return;
    }
    let podman = Podman::start();
    let shared = podman.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    for name in ["file", "read"] {
        std::fs::write(shared.join(name), "text\n").unwrap();
    }
    let (cases, different) = (Mutex::new(CASES.iter()), Mutex::new(Vec::new()));
    let compare = |(options, script): (&'static str, &'static str)| {
        let runc = answers(&podman, options, script, |words| {
            podman.with_runtime("runc", words)
        });
        let ours = answers(&podman, options, script, |words| podman.ours(words));
        if (ours.code, &ours.out) != (runc.code, &runc.out) {
            let mut different = different.lock().unwrap();
            different.push((options, script, runc, ours));
        }
    };
    compare(ALONE);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let Some(case) = cases.lock().unwrap().next() else {
                        return;
                    };
                    compare(*case);
                }
            });
        }
    });
    let different = different.into_inner().unwrap();
    assert!(different.is_empty(), "{different:#?}");
}

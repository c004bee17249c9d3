//! Real software, as its users run it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use bulkhead_e2e::Host;

/// A port nobody listens on.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn get(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn nginx_answers_behind_a_published_port() {
    let host = Host::with_software();
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:80");
    let script = "echo from its own kernel > /var/www/html/index.html; \
                  exec nginx -g 'daemon off;'";
    host.start("web", &["--publish", &publish], script);
    let up = host.exec(
        "web",
        "curl -s --retry 20 --retry-connrefused --retry-delay 1 localhost",
    );
    assert_eq!(up.out, "from its own kernel", "{up:?}");
    for _ in 0..20 {
        let answer = get(port).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("from its own kernel\n"), "{answer}");
    }
    assert_eq!(host.bulkhead(&["stop", "web"]).code, 0);
    assert_eq!(host.state("web")["exit_code"], 0);
    assert!(get(port).is_err());
}

#[test]
fn postgresql_keeps_its_data_on_a_volume() {
    let host = Host::with_software();
    let dir = tempfile::tempdir().unwrap();
    let volume = format!("{}:/data", dir.path().display());
    let options = [
        "--volume",
        &volume,
        "--memory",
        "700m",
        "--shm-size",
        "128m",
    ];
    let run = |script: &str| {
        let script = format!(
            "set -e; PATH=/usr/lib/postgresql/15/bin:$PATH; chown postgres /data; chmod 700 /data; \
             setpriv --reuid=postgres --regid=postgres --init-groups sh -ec '{script}'"
        );
        host.run(&options, &script)
    };
    let first = run(
        "initdb -D /data/db > /dev/null; pg_ctl -D /data/db -o \"-k /tmp\" -w -l /tmp/log \
                     start > /dev/null; createdb -h /tmp bench; pgbench -h /tmp -q -i bench 2> /dev/null; \
                     pgbench -h /tmp -c 2 -t 50 bench 2> /dev/null | grep processed; \
                     psql -h /tmp -Atc \"select count(*) from pgbench_history\" bench; \
                     pg_ctl -D /data/db -w -m fast stop > /dev/null",
    );
    assert_eq!(
        first.out, "number of transactions actually processed: 100/100\n100",
        "{first:?}"
    );
    let second = run(
        "pg_ctl -D /data/db -o \"-k /tmp\" -w -l /tmp/log start > /dev/null; \
                      psql -h /tmp -Atc \"select count(*) from pgbench_history\" bench; \
                      grep -c recovery /tmp/log || true",
    );
    assert_eq!(second.out, "100\n0", "{second:?}");
}

#[test]
fn redis_takes_its_benchmark() {
    let host = Host::with_software();
    let script = "redis-server --save '' --daemonize yes > /dev/null; \
                  redis-benchmark -q -n 2000 -c 10 -t set,get,lpush; redis-cli dbsize";
    let answer = host.run(&[], script);
    assert_eq!(answer.code, 0, "{answer:?}");
    for test in ["SET:", "GET:", "LPUSH:"] {
        assert!(answer.out.contains(test), "{answer:?}");
    }
}

#[test]
fn python_runs_threads_processes_and_sqlite() {
    let host = Host::with_software();
    let script = r#"cat > /tmp/a.py <<'EOF'
import hashlib, json, sqlite3, subprocess, threading, tempfile, os, mmap
sums = []
def work(n): sums.append(hashlib.sha256(bytes([n]) * 100000).hexdigest())
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
db = sqlite3.connect(os.path.join(tempfile.mkdtemp(), "x.db"))
db.execute("create table t (s text)")
db.executemany("insert into t values (?)", [(s,) for s in sums]); db.commit()
out = subprocess.run(["uname", "-s"], capture_output=True, text=True).stdout.strip()
print(json.dumps([db.execute("select count(distinct s) from t").fetchone()[0], out]))
EOF
python3 /tmp/a.py"#;
    assert_eq!(host.run(&[], script).out, r#"[8, "Linux"]"#);
}

#[test]
fn a_compiler_builds_a_project_of_the_host() {
    let host = Host::with_software();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write(
        "sum.c",
        "int sum(int n) { int s = 0; for (int i = 1; i <= n; i++) s += i; return s; }\n",
    );
    write(
        "main.c",
        "#include <stdio.h>\nint sum(int);\nint main(void) { printf(\"%d\\n\", sum(100)); }\n",
    );
    write(
        "Makefile",
        "sum: main.o sum.o\n\t$(CC) -o $@ $^\nclean:\n\trm -f *.o sum\n",
    );
    let volume = format!("{}:/src", dir.path().display());
    let answer = host.run(
        &["-v", &volume, "-w", "/src"],
        "make -s -j2 && ./sum && make -s",
    );
    assert_eq!(answer.out, "5050", "{answer:?}");
    assert!(dir.path().join("sum").exists());
}

#[test]
fn an_init_system_is_pid_1_of_a_privileged_container() {
    let host = Host::with_software();
    let image = host.image();
    let options = [
        "run",
        "--detach",
        "--name",
        "os",
        "--network",
        "none",
        "--privileged",
        "--stop-signal",
        "SIGRTMIN+3",
        "--memory",
        "512m",
    ];
    let answer = host.bulkhead(&[&options[..], &[&image, "/sbin/init"]].concat());
    assert_eq!(answer.code, 0, "{answer:?}");
    let running = host.exec(
        "os",
        "until test -S /run/systemd/private; do sleep 0.1; done; \
         systemctl is-system-running --wait; systemctl --failed --plain -q",
    );
    assert!(running.out.starts_with("running"), "{running:?}");
    let service = "printf '[Service]\\nType=oneshot\\nStandardOutput=file:/run/said\\n\
                   ExecStart=/bin/sh -c \"cat /proc/1/comm; id -u\"\\n' \
                   > /run/systemd/system/job.service; systemctl start job; cat /run/said";
    assert_eq!(host.exec("os", service).out, "systemd\n0");
    assert_eq!(host.bulkhead(&["stop", "--time", "30", "os"]).code, 0);
    let state = host.state("os");
    assert!(state["reason"].is_null(), "{state}");
}

#[test]
fn a_container_engine_runs_inside() {
    let host = Host::with_software();
    let script = "mkdir -p /tmp/b/rootfs/bin && cd /tmp/b && cp /bin/busybox rootfs/bin/sh && \
                  crun spec && sed -i 's/\"terminal\": true/\"terminal\": false/' config.json && \
                  sed -i 's/\"sh\"/\"sh\", \"-c\", \"echo nested $$; kill -0 1 \\&\\& hostname\"/' \
                  config.json && mkdir -p rootfs/proc rootfs/sys rootfs/dev && crun run inner";
    let answer = host.run(&["--privileged"], script);
    assert_eq!(answer.out, "nested 1\ncrun", "{answer:?}");
}

#[test]
fn stress_leaves_a_clean_kernel_log() {
    let host = Host::with_software();
    let script = "stress-ng --quiet --cpu 2 --vm 1 --vm-bytes 128m --hdd 1 --hdd-bytes 64m \
                  --timeout 6 --verify; echo ended $?; \
                  dmesg | grep -E 'BUG|WARNING|Call Trace|Oops|hung|stall|oom' || echo clean";
    let answer = host.run(&["--privileged", "--memory", "400m"], script);
    assert_eq!(answer.out, "ended 0\nclean", "{answer:?}");
}

/// Loads a program of two instructions and pins it; gcc is there anyway.
const LOAD: &str = r#"cat > /tmp/l.c <<'EOF'
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
    struct bpf_insn code[] = {
        { .code = 0xb7, .dst_reg = 0, .imm = 0 }, /* r0 = 0 */
        { .code = 0x95 },                         /* exit */
    };
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.prog_type = BPF_PROG_TYPE_KPROBE;
    attr.insns = (unsigned long)code;
    attr.insn_cnt = 2;
    attr.license = (unsigned long)"GPL";
    strcpy(attr.prog_name, "of_the_guest");
    int fd = syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr);
    if (fd < 0) { perror("load"); return 1; }
    memset(&attr, 0, sizeof attr);
    attr.pathname = (unsigned long)"/sys/fs/bpf/of_the_guest";
    attr.bpf_fd = fd;
    if (syscall(SYS_bpf, BPF_OBJ_PIN, &attr, sizeof attr)) { perror("pin"); return 1; }
    return 0;
}
EOF
gcc -o /tmp/l /tmp/l.c && /tmp/l"#;

#[test]
fn a_container_loads_ebpf_and_mounts_without_the_host_noticing() {
    let host = Host::with_software();
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    let script = format!(
        "mount -t bpf bpf /sys/fs/bpf 2> /dev/null; {LOAD} && bpftool prog show name of_the_guest | \
         grep -o 'kprobe.*of_the_guest'; mount -t tmpfs of_the_guest /mnt && echo mounted; \
         echo 77 > /proc/sys/kernel/panic && cat /proc/sys/kernel/panic; sleep 600"
    );
    host.start("dev", &["--privileged", "--network", "none"], &script);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let logs = || host.bulkhead(&["logs", "dev"]).out;
    while logs().lines().count() < 3 {
        assert!(
            std::time::Instant::now() < deadline,
            "{:?}",
            host.bulkhead(&["logs", "dev"])
        );
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(logs(), "kprobe  name of_the_guest\nmounted\n77");
    // While all that is so in the guest, the host has none of it.
    assert_eq!(mounts(), before);
    assert!(!std::path::Path::new("/sys/fs/bpf/of_the_guest").exists());
    let ordinary = host.run(&[], LOAD);
    assert!(
        ordinary.err.contains("load: Operation not permitted"),
        "{ordinary:?}"
    );
}

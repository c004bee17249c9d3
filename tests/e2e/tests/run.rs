//! A container in its own kernel, seen from inside it.

use std::io::Write;
use std::process::Stdio;

use bulkhead_e2e::{Answer, Host, host_kernel, image};

#[test]
fn the_container_has_a_kernel_of_its_own_and_nothing_is_left() {
    let host = Host::new();
    let answer = host.run(
        &[],
        "uname -r; cat /proc/1/comm; ls /proc | grep -c '^[0-9]'",
    );
    assert_eq!(answer.code, 0, "{answer:?}");
    let lines: Vec<&str> = answer.out.lines().collect();
    assert_ne!(lines[0], host_kernel());
    assert_eq!(lines[1], "sh");
    assert!(host.leftovers().is_empty());
    host.settles();
}

#[test]
fn exit_codes_are_podmans() {
    let host = Host::new();
    assert_eq!(host.run(&[], "exit 7").code, 7);
    assert_eq!(host.run(&[], "sh -c 'kill -9 $$'; exit $?").code, 137);
    let run =
        |command: &str| host.bulkhead(&["run", "--rm", "--network", "none", &image(), command]);
    let missing = run("nosuch");
    assert_eq!(missing.code, 127, "{missing:?}");
    assert!(missing.err.contains("`nosuch`"), "{missing:?}");
    assert_eq!(run("/etc/passwd").code, 126);
    assert_eq!(run("/etc").code, 126);
}

#[test]
fn emulation_is_said_aloud_unless_it_was_asked_for() {
    let host = Host::new();
    let image = image();
    let warning = |accelerator: &str| {
        let words = ["run", "--detach", "--network", "none", &image, "true"];
        let mut command = host.command(&words);
        command.env("BULKHEAD_ACCEL", accelerator);
        let answer = Answer::of(&mut command);
        assert_eq!(answer.code, 0, "{answer:?}");
        let runs = host.state(&answer.out)["accelerator"]
            .as_str()
            .unwrap()
            .to_owned();
        (runs, answer.err)
    };
    let (runs, said) = warning("auto");
    // This host may have KVM: then there is nothing to be said.
    match runs.strip_prefix("tcg: ") {
        Some(reason) => assert!(
            said.starts_with("warning:") && said.contains(reason),
            "{said}"
        ),
        None => assert_eq!((runs.as_str(), said.as_str()), ("kvm", "")),
    }
    let (runs, said) = warning("tcg");
    assert!(
        runs.starts_with("tcg: ") && said.is_empty(),
        "{runs}: {said}"
    );
}

#[test]
fn users_and_groups_are_looked_up_in_the_image() {
    let host = Host::new();
    let id = |user: &str| {
        host.run(&["--user", user], "id -u; id -g; id -G; echo $HOME")
            .out
    };
    assert_eq!(id("web"), "33\n34\n34 50\n/home");
    assert_eq!(id("33:44"), "33\n44\n44\n/home");
    let unknown = host.run(&["--user", "bob"], "true");
    assert_eq!(unknown.code, 125);
    assert!(unknown.err.contains("no user `bob`"), "{unknown:?}");
}

#[test]
fn an_ordinary_container_is_restricted_even_against_its_own_kernel() {
    let host = Host::new();
    let answer = host.run(
        &[],
        "grep -E 'CapEff|Seccomp:' /proc/self/status; mount -t tmpfs x /tmp; \
         unshare -m true; head -c 1 /dev/vda; echo 1 > /proc/sys/kernel/panic",
    );
    assert!(
        answer.out.contains("CapEff:\t00000000800405fb"),
        "{answer:?}"
    );
    assert!(answer.out.contains("Seccomp:\t2"), "{answer:?}");
    for refused in ["mount:", "unshare:", "/dev/vda", "Read-only file system"] {
        assert!(answer.err.contains(refused), "{refused}: {answer:?}");
    }
}

#[test]
fn a_node_made_by_hand_opens_no_disk() {
    let host = Host::new();
    let answer = host.run(&["--cap-add", "MKNOD"], "mknod /d b 254 0 && head -c 1 /d");
    assert!(answer.err.contains("Operation not permitted"), "{answer:?}");
}

#[test]
fn privileged_is_everything_of_the_guest_and_nothing_of_the_host() {
    let host = Host::new();
    let before = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let script = "mkdir /m && mount -t tmpfs x /m && echo mounted; \
        grep CapEff /proc/self/status; head -c 512 /dev/vda | tail -c 2 | hexdump -e '1/1 \"%02x\"'; \
        echo 1 > /proc/sys/kernel/panic_on_oops && cat /proc/sys/kernel/panic_on_oops";
    let answer = host.run(&["--privileged"], script);
    assert_eq!(
        answer.out, "mounted\nCapEff:\t000001ffffffffff\n55aa1",
        "{answer:?}"
    );
    assert_eq!(
        std::fs::read_to_string("/proc/self/mounts").unwrap(),
        before
    );
}

/// QEMU puts the initramfs at the end of memory. Firmware that has its tables there too
/// loses them, or not, by the initramfs's size.
#[test]
fn what_firmware_tells_the_guest_is_out_of_the_initramfs_way() {
    let host = Host::new();
    let script = "grep -c 'ACPI' /proc/iomem; grep 'ACPI' /proc/iomem";
    let answer = host.run(&["--privileged"], script);
    let mut lines = answer.out.lines();
    assert_ne!(lines.next(), Some("0"), "{answer:?}");
    for line in lines {
        let (_, end) = line.split_once('-').unwrap();
        let end = end.split_whitespace().next().unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        assert!(end < 1 << 20, "{answer:?}");
    }
}

#[test]
fn a_crash_of_the_guests_kernel_is_told_with_its_last_words() {
    let host = Host::new();
    let answer = host.run(
        &["--privileged"],
        "kill -9 -1; echo b > /proc/sysrq-trigger; reboot -f; sleep 5",
    );
    // A container's reboot(2) ends the container only: the machine goes on.
    assert_ne!(answer.code, 0, "{answer:?}");
    host.settles();
}

#[test]
fn the_environment_directory_hostname_and_files_are_as_asked() {
    let host = Host::new();
    let options = [
        "-e",
        "A=b c",
        "-w",
        "/made/here",
        "--hostname",
        "box",
        "--add-host",
        "db:10.1.2.3",
    ];
    let answer = host.run(
        &options,
        "echo $A; pwd; hostname; cat /etc/hostname; grep db /etc/hosts",
    );
    assert_eq!(
        answer.out, "b c\n/made/here\nbox\nbox\n10.1.2.3 db",
        "{answer:?}"
    );
}

#[test]
fn standard_input_ends_where_it_ends() {
    let host = Host::new();
    let image = image();
    let args = [
        "run",
        "--rm",
        "-i",
        "--network",
        "none",
        &image,
        "sh",
        "-c",
        "wc -c; echo done",
    ];
    let mut child = host
        .command(&args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let sent = vec![b'x'; 3_000_000];
    child.stdin.take().unwrap().write_all(&sent).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "3000000\ndone\n");
}

#[test]
fn output_arrives_whole_and_apart() {
    let host = Host::new();
    let answer = host.run(&[], "head -c 5000000 /dev/zero | tr '\\0' a; echo err >&2");
    assert_eq!(answer.out.len(), 5_000_000);
    assert_eq!(answer.err, "err\n");
}

/// `> file 2>&1`
#[test]
fn both_streams_may_be_one_file() {
    let host = Host::new();
    let path = host.path().join("both");
    let file = std::fs::File::create(&path).unwrap();
    let script = "for i in 1 2 3; do echo out$i; sleep 0.1; echo err$i >&2; sleep 0.1; done";
    let words = [
        "run",
        "--rm",
        "--network",
        "none",
        &image(),
        "sh",
        "-c",
        script,
    ];
    let mut command = host.command(&words);
    command.stdout(file.try_clone().unwrap()).stderr(file);
    assert!(command.status().unwrap().success());
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        ["err1", "err2", "err3", "out1", "out2", "out3"],
        "{text}"
    );
}

#[test]
fn a_terminal_is_one() {
    let host = Host::new();
    let answer = host.run(
        &["-t"],
        "test -t 0 && test -t 1 && tty && ls -l /dev/console | cut -c1",
    );
    assert_eq!(answer.out.replace('\r', ""), "/dev/pts/0\nc", "{answer:?}");
}

#[test]
fn a_read_only_root_has_places_to_write() {
    let host = Host::new();
    let answer = host.run(&["--read-only"], "touch /x; touch /tmp/x && echo tmp");
    assert_eq!(answer.out, "tmp");
    assert!(answer.err.contains("Read-only file system"), "{answer:?}");
}

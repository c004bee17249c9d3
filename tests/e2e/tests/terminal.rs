//! A terminal that comes, goes and changes its size, as a person at one sees it.

use bulkhead_e2e::{Host, Person, image};

/// Ctrl-p ctrl-q, which leave as Podman's do.
const LEAVE: &str = "\x10\x11";

#[test]
fn a_person_attaches_resizes_leaves_and_comes_back() {
    let host = Host::new();
    let image = image();
    let run = [
        "run",
        "--detach",
        "-it",
        "--name",
        "shell",
        "--network",
        "none",
        &image,
        "sh",
    ];
    assert_eq!(host.bulkhead(&run).code, 0);

    let mut person = Person::starts(&host.command(&["attach", "shell"]));
    person.tries_a_shell();
    person.types(LEAVE);
    assert_eq!(person.ends(), Some(0));
    assert_eq!(host.state("shell")["status"], "running");

    // Two look on; both see what one types.
    let mut first = Person::starts(&host.command(&["attach", "shell"]));
    let mut second = Person::starts(&host.command(&["attach", "shell"]));
    first.types("echo $((50 + 5))\n");
    first.sees("55");
    second.types("echo $((60 + 6))\n");
    second.sees("66");
    first.types("exit 5\n");
    assert_eq!((first.ends(), second.ends()), (Some(5), Some(5)));
    assert_eq!(host.state("shell")["exit_code"], 5);
}

#[test]
fn a_process_executed_on_a_terminal_is_left_with_the_same_keys() {
    let host = Host::new();
    host.start("web", &["--network", "none"], "sleep 1000");
    let exec = ["exec", "-it", "web", "sh", "-c", "tty; sleep 999"];
    let mut person = Person::starts(&host.command(&exec));
    person.sees("/dev/pts/");
    person.types(LEAVE);
    assert_eq!(person.ends(), Some(0));
    // It goes on without anybody.
    assert_eq!(
        host.exec("web", "ps -o args | grep -c 'sleep 99[9]'")
            .out
            .trim(),
        "1"
    );
}

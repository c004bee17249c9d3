//! A terminal that comes, goes and changes its size, as a person at one sees it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use bulkhead_e2e::{Host, image};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

const SOON: Duration = Duration::from_secs(20);

/// Ctrl-p ctrl-q, which leave as Podman's do.
const LEAVE: &str = "\x10\x11";

/// Somebody at a terminal that a command was started on.
struct Person {
    terminal: File,
    command: Child,
    seen: String,
}

impl Person {
    fn starts(command: &Command) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let end: OwnedFd = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
        // Signals of a terminal go to whoever it controls.
        let mut controlled = Command::new("setsid");
        controlled
            .args(["--ctty", "--wait"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(end.try_clone().unwrap())
            .stdout(end.try_clone().unwrap())
            .stderr(end);
        for (name, value) in command.get_envs() {
            controlled.env(name, value.unwrap());
        }
        Self {
            terminal: terminal.into(),
            command: controlled.spawn().unwrap(),
            seen: String::new(),
        }
    }

    fn types(&mut self, keys: &str) {
        self.terminal.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads until this is on the screen.
    fn sees(&mut self, text: &str) {
        let deadline = Instant::now() + SOON;
        while !self.seen.contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in {:?}", self.seen);
            let limit = Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            let mut fds = [PollFd::new(&self.terminal, PollFlags::IN)];
            if poll(&mut fds, Some(&limit)).unwrap() > 0 {
                let mut bytes = [0; 4096];
                // EIO: nobody is at the other end any more.
                let count = self.terminal.read(&mut bytes).unwrap_or(0);
                self.seen += &String::from_utf8_lossy(&bytes[..count]);
            }
        }
    }

    fn resizes(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.terminal, size).unwrap();
    }

    /// The exit code of the command.
    fn ends(mut self) -> Option<i32> {
        self.command.wait().unwrap().code()
    }
}

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
    person.types("echo $((6 * 7))\n");
    person.sees("42");
    person.resizes(40, 100);
    person.types("while [ \"$(stty size)\" != '40 100' ]; do :; done; echo as $((2 * 20)) rows\n");
    person.sees("as 40 rows");
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

//! A person at a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

const SOON: Duration = Duration::from_secs(20);

/// Somebody at a terminal that a command was started on.
#[derive(Debug)]
pub struct Person {
    terminal: File,
    command: Child,
    seen: String,
}

impl Person {
    /// Starts it.
    #[must_use]
    pub fn starts(command: &Command) -> Self {
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

    /// Types keys.
    pub fn types(&mut self, keys: &str) {
        self.terminal.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads until this is on the screen.
    pub fn sees(&mut self, text: &str) {
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

    /// Changes the size of the terminal.
    pub fn resizes(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.terminal, size).unwrap();
    }

    /// Finds out that a shell answers, and that it sees the terminal's size change.
    pub fn tries_a_shell(&mut self) {
        self.types("echo $((6 * 7))\n");
        self.sees("42");
        self.resizes(40, 100);
        self.types(
            "while [ \"$(stty size)\" != '40 100' ]; do :; done; echo as $((2 * 20)) rows\n",
        );
        self.sees("as 40 rows");
    }

    /// The exit code of the command.
    #[must_use]
    pub fn ends(mut self) -> Option<i32> {
        self.command.wait().unwrap().code()
    }
}

//! What a command answers, in bounded time.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::processes::{arguments, parent};

/// For one command. The longest converts an image of Debian's in an emulated guest.
const LIMIT: Duration = Duration::from_secs(300);

/// Of a process's arguments, in a report.
const ARGUMENTS: usize = 200;

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    /// Exit code.
    pub code: i32,
    /// Standard output, without the last line break.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Answer {
    /// Runs a command to its end, without input.
    ///
    /// # Panics
    /// Where it cannot be started, with the way to install it, and where it, or who has
    /// its output, does not end within five minutes: with all processes started since
    /// this test, and what each waits for.
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        Self::to(b"", command)
    }

    /// Runs a command with an input to its end.
    ///
    /// # Panics
    /// As [`Answer::of`].
    #[must_use]
    pub fn to(input: &[u8], command: &mut Command) -> Self {
        let told = format!("{command:?}");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(match input {
            [] => Stdio::null(),
            _ => Stdio::piped(),
        });
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("{told}: {error}; `cargo xtask test` installs what is missing")
        });
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input).unwrap();
        }
        let pid = child.id();
        let (tell, answer) = mpsc::channel();
        std::thread::spawn(move || tell.send(child.wait_with_output()));
        if let Ok(output) = answer.recv_timeout(LIMIT) {
            return Self::from_output(&output.unwrap());
        }
        let report = younger();
        end(pid);
        panic!("{told} has not ended within {LIMIT:?}:\n{report}")
    }

    fn from_output(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout)
                .trim_end()
                .to_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Processes that are younger than this one, a line each. proc_pid_wchan(5),
/// proc_pid_syscall(5).
fn younger() -> String {
    let mut pids = crate::processes(|_| true);
    pids.retain(|pid| *pid > std::process::id());
    pids.sort_unstable();
    let lines = pids.iter().map(|pid| {
        let fact = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
        let fact = |name: &str| fact(name).unwrap_or_default().trim().to_owned();
        let line: String = arguments(*pid).join(" ").chars().take(ARGUMENTS).collect();
        let (wait, call) = (fact("wchan"), fact("syscall"));
        let above = parent(*pid).unwrap_or_default();
        format!("{pid} of {above}, in {wait} ({call}): {line}\n")
    });
    lines.collect()
}

/// Ends a process and its descendants.
fn end(pid: u32) {
    for child in crate::processes(|_| true) {
        if parent(child) == Some(pid) {
            end(child);
        }
    }
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

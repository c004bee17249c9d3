//! Commands that have to succeed.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// What a task answers.
pub(crate) type Outcome<T = ()> = Result<T, String>;

/// Runs a command with the terminal's own output; an error names it.
pub(crate) fn command(command: &mut Command) -> Outcome {
    let shown = shown(command);
    judged(&shown, started(&shown, command)?.wait())
}

/// Runs a command that has to succeed, and to end: of one that does not, all that runs
/// on the machine is told, and what it waits for.
pub(crate) fn within(limit: Duration, command: &mut Command) -> Outcome {
    let shown = shown(command);
    let mut child = started(&shown, command)?;
    let pid = child.id();
    let (end, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let status = scope.spawn(move || {
            let status = child.wait();
            drop(end);
            status
        });
        let late = ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
        if late {
            println!("\n== `{shown}` has not ended within {limit:?}. What runs:");
            tell_and_end(pid);
        }
        let status = status.join().map_err(|_| format!("`{shown}` was lost"))?;
        match late {
            true => Err(format!("`{shown}` had to be ended after {limit:?}")),
            false => judged(&shown, status),
        }
    })
}

/// Tells of all processes, and ends one with its descendants. ps(1).
fn tell_and_end(pid: u32) {
    let columns = "pid,ppid,etimes,stat,wchan:24,args";
    let _ = Command::new("ps")
        .args(["-e", "--forest", "--columns", "200", "-o", columns])
        .status();
    // In a subshell each, which has its own `child`.
    let script = r#"end() (
        for child in $(ps -o pid= --ppid "$1"); do end "$child"; done
        kill -KILL "$1"
    )
    end "$0""#;
    let _ = Command::new("sh")
        .args(["-c", script, &pid.to_string()])
        .status();
}

fn shown(command: &Command) -> String {
    format!("{command:?}").replace('"', "")
}

fn started(shown: &str, command: &mut Command) -> Outcome<Child> {
    let child = command.spawn();
    child.map_err(|error| format!("`{shown}` did not start: {error}"))
}

fn judged(shown: &str, status: io::Result<ExitStatus>) -> Outcome {
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{shown}` failed: {status}")),
        Err(error) => Err(format!("`{shown}`: {error}")),
    }
}

/// What a command that has to succeed prints; an error has its last words.
pub(crate) fn said(command: &mut Command) -> Outcome<String> {
    let shown = shown(command);
    let output = command
        .output()
        .map_err(|error| format!("`{shown}` did not start: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        let why = String::from_utf8_lossy(&output.stderr);
        Err(format!("`{shown}`: {}", why.trim()))
    }
}

/// Cargo, in the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// The workspace's directory.
pub(crate) fn workspace() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or(here.clone(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::within;

    #[test]
    fn what_does_not_end_is_ended_with_its_children() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "(sleep 1000; true) & sleep 1000; true"]);
        let late = within(Duration::from_millis(200), &mut shell);
        assert!(late.unwrap_err().contains("had to be ended"));
        let mut failed = Command::new("false");
        let failed = within(Duration::from_secs(20), &mut failed);
        assert!(failed.unwrap_err().contains("failed"));
        let good = within(Duration::from_secs(20), &mut Command::new("true"));
        assert_eq!(good, Ok(()));
    }
}

//! `stop`, `kill`, `wait`, `pause`, `unpause`.

use std::process::ExitCode;
use std::time::Duration;

use super::{connect, open_client, signal};
use crate::cli::{KillOptions, Names, StopOptions};
use crate::client::Client;
use crate::report::{CommandError, Outcome};
use crate::state::{ContainerDir, Record, Root, file};
use bulkhead_control::{Answer, Request};

const SIGKILL: u32 = 9;

/// Does a thing for each container, and fails if one failed, after all.
fn each(names: &[String], mut work: impl FnMut(&str) -> Result<(), CommandError>) -> Outcome {
    let mut failed = None;
    for name in names {
        if let Err(error) = work(name) {
            failed = Some(error.report());
        }
    }
    Ok(failed.unwrap_or(ExitCode::SUCCESS))
}

/// `bulkhead stop`.
pub(super) fn stop(root: &Root, options: &StopOptions) -> Outcome {
    each(&options.names.names, |name| {
        let dir = root.find(name)?;
        let record = dir.record()?;
        if dir.state()?.is_live() {
            stop_one(&dir, &record, options.time.unwrap_or(record.stop_timeout))?;
        }
        println!("{name}");
        Ok(())
    })
}

/// Asks, waits, kills. Returns when the container is over.
pub(super) fn stop_one(
    dir: &ContainerDir,
    record: &Record,
    seconds: u64,
) -> Result<(), CommandError> {
    let client = open_client(dir, record)?;
    let asked = client.ask(Request::Signal {
        attached: None,
        signal: record.stop_signal,
        all: false,
    });
    if asked.is_ok() && ended_within(dir, Duration::from_secs(seconds))? {
        return Ok(());
    }
    kill_one(dir, record)
}

/// SIGKILL, and wait for the end.
pub(super) fn kill_one(dir: &ContainerDir, record: &Record) -> Result<(), CommandError> {
    if let Ok(client) = open_client(dir, record) {
        let _ = client.ask(Request::Signal {
            attached: None,
            signal: SIGKILL,
            all: false,
        });
    }
    if ended_within(dir, Duration::from_secs(10))? {
        return Ok(());
    }
    // A guest that does not even die: the machine goes with its supervisor.
    let state = dir.state()?;
    if state.is_live()
        && let Some(pid) = rustix::process::Pid::from_raw(state.supervisor_pid.cast_signed())
    {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    dir.wait_unlocked()?;
    dir.state()
        .map(|_| ())
        .or_else(|error| match dir.path().exists() {
            true => Err(error.into()),
            false => Ok(()),
        })
}

/// Waits for the supervisor's lock, which frees at the very end.
fn ended_within(dir: &ContainerDir, time: Duration) -> Result<bool, CommandError> {
    let dir = dir.clone();
    let ended = file::within(time, move || dir.wait_unlocked());
    Ok(ended.transpose()?.is_some())
}

/// `bulkhead kill`.
pub(super) fn kill(root: &Root, options: &KillOptions) -> Outcome {
    let signal = signal::parse(&options.signal)?;
    each(&options.names.names, |name| {
        let (_, _, client) = connect(root, name)?;
        client.ask(Request::Signal {
            attached: None,
            signal,
            all: false,
        })?;
        println!("{name}");
        Ok(())
    })
}

/// `bulkhead wait`.
pub(super) fn wait(root: &Root, names: &Names) -> Outcome {
    each(&names.names, |name| {
        let dir = root.find(name)?;
        let state = dir.state()?;
        if !state.is_live() {
            println!("{}", state.exit_code.unwrap_or(255));
            return Ok(());
        }
        let code = match open_client(&dir, &dir.record()?).and_then(|c| wait_for(&c)) {
            Ok(code) => code,
            // It ended, or its supervisor was killed, while we came.
            Err(_) => {
                dir.wait_unlocked()?;
                dir.state()?.exit_code.unwrap_or(255)
            }
        };
        println!("{code}");
        Ok(())
    })
}

fn wait_for(client: &Client) -> Result<i32, CommandError> {
    match client.ask(Request::Wait)? {
        Answer::Exited { code, .. } => Ok(code),
        _ => Err(CommandError::new(
            "the supervisor gave an unexpected answer",
        )),
    }
}

/// `bulkhead pause` and `unpause`.
pub(super) fn pause(root: &Root, names: &Names, pause: bool) -> Outcome {
    each(&names.names, |name| {
        let (_, _, client) = connect(root, name)?;
        client.ask(if pause {
            Request::Pause
        } else {
            Request::Resume
        })?;
        println!("{name}");
        Ok(())
    })
}

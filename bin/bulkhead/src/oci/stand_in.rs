//! The process of the host that stands for one of a container's: it moves what named
//! pipes and terminals carry, passes signals on, waits for the end, and ends with the
//! same exit code.
//!
//! One that stands for a container is in namespaces of its own ([`view`](super::view));
//! a thread of it stays where it was started, to talk to the shim and to leave the
//! control group. When it is killed the shim notices, and ends the machine.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

use bulkhead_sys::cgroup::{Cgroup, Origin};
use bulkhead_sys::jail::Jail;
use bulkhead_sys::namespaces;
use serde::{Deserialize, Serialize};

use super::bundle::read_json;
use super::container::{self, Held};
use super::{Error, Place, view};
use crate::client::Near;
use crate::report::chain;

/// What this program is executed as.
pub(crate) const PROGRAM: &str = "bulkhead-stand-in";

/// What it says when it stands.
const READY: &[u8] = b"ready";

/// Exit code of one that could not, and of a process that was lost.
pub(super) const LOST: u8 = 255;

/// What it is told: names of our own making, and numbers of inherited descriptors.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    id: String,
    /// Empty: the container's first process.
    exec: String,
    /// The process id the shim has told for the container.
    told: u32,
    terminal: bool,
    stdin: Option<i32>,
    stdout: Option<i32>,
    stderr: Option<i32>,
    /// Where it tells that it stands.
    word: i32,
    /// The shim's process, where the machine ends with the container.
    machine: Option<i32>,
    /// What it holds while it lives: the lock, and a pipe the shim looks at.
    held: Vec<i32>,
}

/// What a stand-in is for.
pub(super) struct Wanted<'a> {
    pub(super) id: &'a str,
    pub(super) exec: &'a str,
    /// The shim's process, where the machine is the container's, and ends with it.
    pub(super) machine: Option<OwnedFd>,
    /// The process id the shim has told for the container.
    pub(super) told: u32,
    pub(super) near: Near,
    /// The terminal of the host; all three streams are it.
    pub(super) terminal: Option<OwnedFd>,
    /// The process has one; without `terminal` it is this process's own.
    pub(super) has_terminal: bool,
    pub(super) held: Vec<OwnedFd>,
}

/// Starts one, and waits until it stands. Whoever waits for this process's children
/// gets it when this process ends.
pub(super) fn start(wanted: Wanted<'_>) -> Result<Child, Error> {
    let failed = || Error::host("be started");
    let (mut words, word) = std::io::pipe().map_err(failed())?;
    let first = wanted.exec.is_empty();
    let mut jail = Jail::detached();
    let near = wanted.near;
    let stdio = |relayed: bool| -> Result<Stdio, Error> {
        match (&wanted.terminal, relayed) {
            (Some(terminal), true) => {
                let copy = terminal.try_clone().map_err(failed())?;
                Ok(Stdio::from(copy))
            }
            (None, true) => Ok(Stdio::inherit()),
            (_, false) => Ok(Stdio::null()),
        }
    };
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(PROGRAM)
        .stdin(stdio(near.stdin.is_some())?)
        .stdout(stdio(near.stdout.is_some())?)
        .stderr(stdio(near.stderr.is_some() || wanted.terminal.is_some())?);
    let mut number = |fd: Option<OwnedFd>| fd.map(|fd| jail.inherit(fd));
    let order = Order {
        id: wanted.id.to_owned(),
        exec: wanted.exec.to_owned(),
        told: wanted.told,
        terminal: wanted.has_terminal,
        stdin: number(near.stdin),
        stdout: number(near.stdout),
        stderr: number(near.stderr),
        machine: number(wanted.machine),
        word: jail.inherit(word.into()),
        held: wanted.held.into_iter().map(|fd| jail.inherit(fd)).collect(),
    };
    let order = serde_json::to_string(&order).map_err(|error| Error::Answer(error.to_string()))?;
    command.arg(order);
    let guard = jail.apply(&mut command);
    let child = match first {
        true => spawn_alone(&mut command),
        false => command.spawn(),
    };
    let child = child.map_err(failed())?;
    drop((guard, command));
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut words, &mut text).map_err(failed())?;
    match text == READY {
        true => Ok(child),
        false => Err(Error::Answer(match text.is_empty() {
            true => "the process that stands for the container was killed".to_owned(),
            false => String::from_utf8_lossy(&text).into_owned(),
        })),
    }
}

/// Starts the first process of a process namespace, by a thread of its own: it could
/// start no other threads afterwards.
fn spawn_alone(command: &mut Command) -> std::io::Result<Child> {
    let spawn = || namespaces::next_child_alone().and_then(|()| command.spawn());
    std::thread::scope(|scope| {
        let spawned = scope.spawn(spawn).join();
        spawned.unwrap_or_else(|_| Err(std::io::Error::other("the thread that starts it panicked")))
    })
}

/// Ends one nobody can be told of; what it stands for ends with it.
pub(super) fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Is one, by what it was executed with.
pub(crate) fn main(order: &str) -> ExitCode {
    let Ok(order) = serde_json::from_str::<Order>(order) else {
        return ExitCode::from(LOST);
    };
    let taken = |number: i32| bulkhead_sys::inherited(number);
    let Some(word) = taken(order.word) else {
        return ExitCode::from(LOST);
    };
    let mut word = File::from(word);
    let near = Near {
        stdin: order.stdin.and_then(taken),
        stdout: order.stdout.and_then(taken),
        stderr: order.stderr.and_then(taken),
    };
    let held = Held {
        near,
        machine: order.machine.and_then(taken),
        group: None,
        terminal: order.terminal,
        _kept: order.held.iter().copied().filter_map(taken).collect(),
    };
    if order.terminal {
        // By it this process is told when the terminal's size changes. It is somebody
        // else's where nobody made one for it.
        let _ = rustix::process::ioctl_tiocsctty(std::io::stdin());
    }
    let standing = stand(&order, held);
    let told = match &standing {
        Ok(_) => word.write_all(READY),
        Err(error) => word.write_all(chain(error).as_bytes()),
    };
    // The other side waits for the end of what is said.
    drop(word);
    match (standing, told) {
        (Ok(waiting), Ok(())) => match waiting.join() {
            Ok(Ok(code)) => ExitCode::from(code),
            _ => ExitCode::from(LOST),
        },
        _ => ExitCode::from(LOST),
    }
}

fn stand(order: &Order, mut held: Held) -> Result<JoinHandle<Result<u8, Error>>, Error> {
    let place = Place::find(&order.id)?;
    let spec = match order.exec.is_empty() {
        true => {
            let spec = read_json(&place.bundle().join("config.json"))?;
            let path = spec["linux"]["cgroupsPath"].as_str();
            held.group = join_cgroup(path, held.machine.is_some())?;
            Some(spec)
        }
        false => None,
    };
    let exec = order.exec.clone();
    let (tell, attends) = mpsc::channel();
    // Started before this thread goes elsewhere, it stays.
    let waiting = std::thread::Builder::new()
        .spawn(move || container::wait(&place, &exec, held, &tell))
        .map_err(Error::host("begin"))?;
    if let Some(spec) = spec {
        view::enter(&spec, order.told).map_err(Error::host("be where the container is"))?;
    }
    // A signal that comes before it is listened to would be lost.
    if attends.recv().is_err() {
        let ended = waiting.join().unwrap_or(Ok(LOST));
        return Err(ended
            .err()
            .unwrap_or_else(|| Error::Answer("the container ended while it was made".to_owned())));
    }
    Ok(waiting)
}

/// Goes where the container is accounted for: by this process others find that place.
/// The group of a machine is the shim's to make and to remove.
fn join_cgroup(path: Option<&str>, alone: bool) -> Result<Option<(Cgroup, Origin)>, Error> {
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let joined = Cgroup::of(path).and_then(|group| {
        let origin = match alone {
            true => group.follow(),
            false => group.join(),
        };
        Ok((group, origin?))
    });
    joined
        .map(Some)
        .map_err(|error| Error::Answer(chain(&error)))
}

//! The verbs that say something to a container that was created.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::bundle::read_json;
use super::place::{self, Record};
use super::shim::{self, FIRST, Shim};
use super::{Error, Place, runtime};

/// The runtime spec this follows.
const OCI_VERSION: &str = "1.2.0";

const SIGKILL: u32 = 9;

/// How long a container that was killed may take to be gone, its hooks and the files it
/// wrote included.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a container is: the runtime spec's words.
fn status(place: &Place) -> &'static str {
    if place.has_ended() {
        return "stopped";
    }
    let asked = runtime()
        .and_then(|runtime| runtime.block_on(async { Shim::connect(place).await?.status().await }));
    // Who does not answer is ending.
    asked.unwrap_or("stopped")
}

/// Asks the shim of a container that lives.
fn ask<T>(id: &str, work: impl AsyncFnOnce(Shim) -> Result<T, Error>) -> Result<T, Error> {
    let place = Place::living(id, "it has no process any more")?;
    runtime()?.block_on(async { work(Shim::connect(&place).await?).await })
}

fn done(done: Result<(), Error>) -> Result<ExitCode, Error> {
    done.map(|()| ExitCode::SUCCESS)
}

/// `start`.
pub(crate) fn start(id: &str) -> Result<ExitCode, Error> {
    done(ask(id, async |shim| shim.begin(FIRST).await))
}

/// `kill`.
pub(crate) fn kill(id: &str, signal: u32, all: bool) -> Result<ExitCode, Error> {
    done(ask(id, async |shim| shim.kill(FIRST, signal, all).await))
}

/// `pause` and `resume`.
pub(crate) fn pause(id: &str, pause: bool) -> Result<ExitCode, Error> {
    done(ask(id, async |shim| shim.pause(pause).await))
}

/// `update --resources`.
pub(crate) fn update(id: &str, resources: &Path) -> Result<ExitCode, Error> {
    let resources = read_json(resources)?.to_string().into_bytes();
    done(ask(id, async |shim| shim.update(resources).await))
}

/// `ps --format json`: the processes on the host. The container's own are the guest's.
pub(crate) fn host_processes(id: &str) -> Result<Vec<u32>, Error> {
    let place = Place::find(id)?;
    match place.has_ended() {
        true => Ok(Vec::new()),
        false => Ok(vec![place.record()?.pid]),
    }
}

fn told(place: &Place, record: &Record) -> Value {
    let status = status(place);
    json!({
        "ociVersion": OCI_VERSION,
        "id": place.id(),
        "status": status,
        "pid": if status == "stopped" { 0 } else { record.pid },
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "annotations": record.annotations,
    })
}

/// `state`.
pub(crate) fn state(id: &str) -> Result<ExitCode, Error> {
    let place = Place::find(id)?;
    let record = place.record()?;
    println!("{:#}", told(&place, &record));
    Ok(ExitCode::SUCCESS)
}

/// What `list` shows.
pub(crate) fn list() -> Result<Vec<Value>, Error> {
    let mut all = Vec::new();
    for id in place::ids()? {
        let Ok(place) = Place::find(&id) else {
            continue;
        };
        // One that is being made, or was just removed, is not there.
        if let Ok(record) = place.record() {
            all.push(told(&place, &record));
        }
    }
    Ok(all)
}

/// `delete`. With `force` a container that runs is killed, and one that is not there is
/// no error.
pub(crate) fn delete(id: &str, force: bool) -> Result<ExitCode, Error> {
    let place = match Place::find(id) {
        Err(Error::NoContainer(_)) if force => return Ok(ExitCode::SUCCESS),
        found => found?,
    };
    match status(&place) {
        "stopped" | "created" => {}
        _ if force => {}
        status => {
            return Err(Error::Status {
                id: id.to_owned(),
                status,
                wanted: "kill it first, or say --force",
            });
        }
    }
    if !place.has_ended() {
        end(&place)?;
    }
    if place.address().is_ok() {
        shim::clean(&place)?;
    }
    place.remove()?;
    Ok(ExitCode::SUCCESS)
}

/// Ends a container that lives. The process that stands for it goes by itself when its
/// container has ended, or its shim.
fn end(place: &Place) -> Result<(), Error> {
    let kill = async {
        let shim = Shim::connect(place).await?;
        match shim.kill(FIRST, SIGKILL, true).await {
            // It has ended, and what was made for it is being taken away.
            Err(_) if shim.status().await? == "stopped" => Ok(()),
            killed => killed,
        }
    };
    let asked = runtime()?.block_on(async { tokio::time::timeout(PATIENCE, kill).await });
    if matches!(asked, Ok(Ok(()))) && place.ends_within(PATIENCE)? {
        return Ok(());
    }
    // A shim or a guest that does not obey, or does not answer.
    shim::clean(place)?;
    place.wait()
}

/// `features`: what this runtime knows of the runtime spec (its features.md).
pub(crate) fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": [],
        "mountOptions": [
            "ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "relatime",
            "strictatime", "bind", "rbind", "private", "rprivate", "shared", "rshared", "slave",
            "rslave", "tmpcopyup",
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": false},
            "seccomp": {"enabled": true},
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
        },
    })
}

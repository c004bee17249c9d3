//! `create`.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use bulkhead_provision::scope;

use super::bundle::Bundle;
use super::place::Record;
use super::shim::{self, FIRST, Shim};
use super::stand_in::{self, Wanted};
use super::stdio::Stdio;
use super::{Error, Place, console, machine, runtime};
use crate::commands::time::rfc3339;
use crate::state::file;

/// What a caller of `create` says.
#[derive(Debug)]
pub(crate) struct Creation {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) console_socket: Option<PathBuf>,
    /// The configuration of machines; none: the host's.
    pub(crate) config: Option<PathBuf>,
}

/// Makes a container, which `start` lets run. Nothing is left of a failure.
pub(crate) fn create(wanted: &Creation) -> Result<ExitCode, Error> {
    let mut bundle = Bundle::read(&wanted.bundle)?;
    let console = console(bundle.terminal, wanted.console_socket.as_deref())?;
    let host = match bundle.joined.take() {
        Some(joined) => Some(machine::join(&mut bundle, &joined)?),
        None => None,
    };
    let place = Place::of(&wanted.id)?;
    let lock = place.make()?;
    let made = fill(&place, &bundle, host.as_ref(), wanted, console, lock);
    if made.is_err() {
        // With the stand-in, or the lock of this process, its shim ends by itself.
        let _ = place.wait();
        if host.is_some() {
            let _ = shim::clean(&place);
        }
        let _ = place.remove();
    }
    made.map(|()| ExitCode::SUCCESS)
}

fn console(terminal: bool, socket: Option<&Path>) -> Result<Option<OwnedFd>, Error> {
    match (terminal, socket) {
        (true, Some(socket)) => console::open(socket).map(Some),
        (true, None) => Err(Error::Refused(
            "the process wants a terminal: say with --console-socket who takes it".to_owned(),
        )),
        (false, Some(_)) => Err(Error::Refused(
            "--console-socket is for a process with a terminal; set `process.terminal`".to_owned(),
        )),
        (false, None) => Ok(None),
    }
}

fn fill(
    place: &Place,
    bundle: &Bundle,
    host: Option<&Place>,
    wanted: &Creation,
    console: Option<OwnedFd>,
    lock: OwnedFd,
) -> Result<(), Error> {
    let path = place.bundle().join("config.json");
    file::replace(&path, bundle.spec.to_string().as_bytes()).map_err(Error::io("write", &path))?;
    let (owner, held) = std::io::pipe().map_err(Error::host("begin"))?;
    let owner = OwnedFd::from(owner);
    let runtime = runtime()?;
    let shim = match host {
        Some(host) => {
            place.share_shim(host)?;
            runtime.block_on(Shim::connect(place))?
        }
        None => runtime.block_on(Shim::start(place, &owner))?,
    };
    let stdio = Stdio::open(place, "first", bundle.terminal)?;
    let at = place.bundle();
    let config = wanted.config.as_deref();
    let created = shim.create(&at, stdio.paths.clone(), bundle.terminal, config);
    let told = runtime.block_on(created)?;
    let machine = match host {
        Some(_) => {
            Shim::own(place, FIRST, &owner)?;
            None
        }
        // It has answered, so that the socket is its own.
        None => Some(Shim::process(place)?),
    };
    drop(owner);
    let (near, made) = stdio.split();
    let mut child = stand_in::start(Wanted {
        id: place.id(),
        exec: FIRST,
        machine,
        told,
        near,
        has_terminal: bundle.terminal,
        terminal: console,
        held: vec![lock, held.into()],
    })?;
    drop(made);
    let pid = child.id();
    if host.is_some() {
        runtime.block_on(tell_systemd(place, bundle, pid));
    }
    let record = Record {
        pid,
        bundle: bundle.dir.clone(),
        rootfs: bundle.rootfs.clone(),
        machine: host.unwrap_or(place).id().to_owned(),
        created: rfc3339(SystemTime::now()),
        annotations: bundle.annotations.clone(),
    };
    let told = place
        .write_record(&record)
        .and_then(|()| write_pid(wanted.pid_file.as_deref(), pid));
    told.inspect_err(|_| stand_in::end(&mut child))
}

/// Where the process that stands for it has a control group of its own: a machine's is
/// told of by its shim.
async fn tell_systemd(place: &Place, bundle: &Bundle, pid: u32) {
    let group = bundle.spec["linux"]["cgroupsPath"].as_str();
    let description = format!("stands for the container {}", place.id());
    scope::tell(group.unwrap_or_default(), &description, pid).await;
}

/// Tells whoever waits for it which process stands for the container's.
pub(super) fn write_pid(path: Option<&Path>, pid: u32) -> Result<(), Error> {
    match path {
        Some(path) => {
            file::replace(path, pid.to_string().as_bytes()).map_err(Error::io("write", path))
        }
        None => Ok(()),
    }
}

//! `start`: prints the address of the pod's process, and starts that process
//! when the pod is new.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bulkhead_bundle::Kind;
use bulkhead_sys::jail::Jail;
use rustix::fs::{Mode, OFlags};

use crate::args::Args;
use crate::place::Place;

/// Why a pod could not be begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Spec(#[from] bulkhead_bundle::ReadError),
    #[error("the pod `{pod}` of the container `{id}` does not run (nobody listens at `{}`)", path.display())]
    NoPod {
        pod: String,
        id: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the pod's process could not be started: {step}")]
    Start {
        step: &'static str,
        #[source]
        source: std::io::Error,
    },
}

/// Runs in the bundle's directory, as containerd starts it.
pub(crate) fn run(args: &Args) -> Result<(), Error> {
    let bundle = Path::new(".");
    // containerd 2 starts the shim of a sandbox in a bundle without a spec.
    let kind = match bundle.join("config.json").exists() {
        true => bulkhead_bundle::kind(&bulkhead_bundle::read(bundle)?)?,
        false => Kind::Pod,
    };
    let address = match kind {
        Kind::Member { pod } => address_of(args, &pod)?,
        Kind::Pod | Kind::Single => start(args)?,
    };
    let failed = |source| Error::Start {
        step: "tell its address",
        source,
    };
    std::fs::write("address", &address).map_err(failed)?;
    std::io::stdout()
        .write_all(address.as_bytes())
        .map_err(failed)
}

/// Where its pod listens. Of the bundles only the container manager knows where
/// one lies from the other.
fn address_of(args: &Args, pod: &str) -> Result<String, Error> {
    let path = Place::of(&args.namespace, pod).socket();
    match std::fs::symlink_metadata(&path) {
        Ok(_) => Ok(format!("unix://{}", path.display())),
        Err(source) => Err(Error::NoPod {
            pod: pod.to_owned(),
            id: args.id.clone(),
            path,
            source,
        }),
    }
}

fn start(args: &Args) -> Result<String, Error> {
    let failed = |step: &'static str| move |source| Error::Start { step, source };
    let place = Place::of(&args.namespace, &args.id);
    Place::sweep();
    place.make().map_err(failed("make its directory"))?;
    let socket = place.socket();
    // Listening already: who connects before the process is up waits.
    let listener = UnixListener::bind(&socket).map_err(failed("listen"))?;
    let started = spawn(args, listener).map_err(failed("execute it"));
    if started.is_err() {
        place.remove();
    }
    started?;
    Ok(format!("unix://{}", socket.display()))
}

fn spawn(args: &Args, listener: UnixListener) -> std::io::Result<()> {
    let mut jail = Jail::detached();
    let number = jail.inherit(listener.into());
    let owner = match args.owner {
        Some(number) => Some(jail.inherit(handed_over(number)?)),
        None => None,
    };
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("containerd-shim-bulkhead-v2")
        .args([
            "-namespace",
            args.namespace.as_str(),
            "-id",
            args.id.as_str(),
        ])
        .args(["-address", args.address.as_str()]);
    if args.debug {
        command.arg("-debug");
    }
    if let Some(owner) = owner {
        command.args(["-owner", &owner.to_string()]);
    }
    command
        .args(["serve", &number.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log().map_or_else(Stdio::null, Stdio::from));
    let guard = jail.apply(&mut command);
    let spawned = command.spawn();
    drop(guard);
    spawned.map(drop)
}

fn handed_over(number: i32) -> std::io::Result<OwnedFd> {
    let owner = bulkhead_sys::inherited(number);
    owner.ok_or_else(|| std::io::Error::other(format!("nobody handed {number} over")))
}

/// containerd's pipe for this shim's log, `log` in the bundle. Opened for
/// both: containerd may go and come back.
pub(crate) fn log() -> Option<File> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open("log", flags, Mode::empty()).ok()?;
    // Blocking again for the writer; only the opening must not wait.
    let _ = rustix::fs::fcntl_setfl(&fd, OFlags::empty());
    Some(fd.into())
}

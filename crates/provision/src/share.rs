//! File servers: one process each, which is this program under another name.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use bulkhead_hypervisor::ShareDevice;
use bulkhead_share::{Order, READY};
use bulkhead_sys::jail::Jail;
use rustix::fs::{Mode, OFlags};

use crate::{Error, Helper};

/// Name under which a program becomes a file server; see [`main`].
pub const PROGRAM: &str = "bulkhead-file-server";

/// Bytes of a file server's complaint that are read.
const COMPLAINT_LIMIT: u64 = 4096;

/// A file server that was started.
#[derive(Debug)]
pub struct Server {
    /// The device it is behind.
    pub device: ShareDevice,
    /// Its process.
    pub helper: Helper,
}

impl Server {
    /// Starts a server of the directory `shared` (called `path`) as the share
    /// `tag`. `dir` is the sandbox's own directory. Wait for it with
    /// [`ready`].
    ///
    /// # Errors
    /// [`Error::Share`].
    pub fn start(
        dir: &Path,
        tag: &str,
        path: &Path,
        shared: OwnedFd,
        order: &Order,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Share {
            path: path.to_owned(),
            source,
        };
        let (listener, socket) = connection(dir, tag).map_err(failed)?;
        let child = spawn(order, shared, listener, dir).map_err(failed)?;
        Ok(Self {
            device: ShareDevice {
                tag: tag.to_owned(),
                socket,
            },
            helper: Helper::new(format!("the file server of `{}`", path.display()), child),
        })
    }
}

/// Waits until a server serves.
///
/// # Errors
/// [`Error::Server`] with its last words.
pub fn ready(helper: &mut Helper) -> Result<(), Error> {
    let mut said = String::new();
    if let Some(stdout) = helper.stdout() {
        // Read to the order's end, not the server's: what follows the
        // word can only come when it has failed.
        let mut stdout = stdout.take(COMPLAINT_LIMIT);
        while said != READY && read_some(&mut stdout, &mut said) {}
    }
    if said == READY {
        return Ok(());
    }
    Err(Error::Server {
        name: helper.name().to_owned(),
        said: said.trim().to_owned(),
    })
}

fn read_some(from: &mut impl Read, into: &mut String) -> bool {
    let mut buffer = [0; 512];
    match from.read(&mut buffer) {
        Ok(count @ 1..) => {
            into.push_str(&String::from_utf8_lossy(&buffer[..count]));
            true
        }
        _ => false,
    }
}

/// What a program does that was executed as [`PROGRAM`]; `args` are those
/// after its name. Why it cannot serve goes to standard output, where
/// [`ready`] reads it.
pub fn main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut descriptor = || bulkhead_sys::inherited(args.next()?.to_str()?.parse().ok()?);
    let (Some(dir), Some(listener)) = (descriptor(), descriptor()) else {
        return ExitCode::from(125);
    };
    let served = Order::read(std::io::stdin())
        .map_err(|error| error.to_string())
        .and_then(|order| {
            bulkhead_share::serve(&order, dir, listener, std::io::stdout())
                .map_err(|error| crate::chain(&error))
        });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            println!("{text}");
            ExitCode::from(125)
        }
    }
}

/// A listening socket and a connection to it that waits to be accepted: the
/// library listens, and the monitor is given connected sockets only.
fn connection(dir: &Path, tag: &str) -> std::io::Result<(OwnedFd, UnixStream)> {
    // By descriptor: the address of a socket has room for 107 bytes, and the
    // directory's own path may need more.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/{tag}.sock", dir.as_raw_fd());
    let listener = UnixListener::bind(&path)?;
    let connected = UnixStream::connect(&path);
    std::fs::remove_file(&path)?;
    Ok((listener.into(), connected?))
}

fn spawn(order: &Order, shared: OwnedFd, listener: OwnedFd, dir: &Path) -> std::io::Result<Child> {
    let mut jail = Jail::new();
    let shared = jail.inherit(shared);
    let listener = jail.inherit(listener);
    jail.no_new_privileges().no_core_dumps();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(PROGRAM)
        .args([shared.to_string(), listener.to_string()])
        // For whoever reads a list of processes.
        .arg(dir)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let guard = jail.apply(&mut command);
    let spawned = command.spawn();
    drop(guard);
    let mut child = spawned?;
    let bytes = order.to_bytes()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&bytes)?;
    }
    Ok(child)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_waits_and_leaves_no_socket() {
        let root = tempfile::tempdir().unwrap();
        // Longer than the address of a socket can be.
        let long = root.path().join("x".repeat(120));
        std::fs::create_dir(&long).unwrap();
        let (listener, _connected) = connection(&long, "volume0").unwrap();
        assert!(UnixListener::from(listener).accept().is_ok());
        assert_eq!(std::fs::read_dir(long).unwrap().count(), 0);
    }
}

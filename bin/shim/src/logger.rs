//! Output that goes to a program of the host, `binary://`: nerdctl has it so, and
//! `ctr run --log-uri`. containerd's core/runtime/v2/README.md, "Logging".
//!
//! The program finds standard output as descriptor 3 and standard error as 4, closes
//! 5 when it is ready, and is told by its environment whose output it is. It ends
//! when both have; with this process it ends in any case.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use bulkhead_sys::jail::Jail;
use percent_encoding::percent_decode_str;
use rustix::io::FdFlags;
use rustix::pipe::PipeFlags;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::failure::{Failure, Outcome};

/// What this program is called while it becomes another.
pub(crate) const PROGRAM: &str = "bulkhead-logger";

/// What an address of this kind begins with.
pub(crate) const SCHEME: &str = "binary://";

/// Where the program looks for output, errors, and whom to tell that it is ready.
const PLACES: [RawFd; 3] = [3, 4, 5];

/// Numbers that are none of these.
const AWAY: RawFd = 64;

/// Longest address, and most arguments in it.
const ADDRESS_LIMIT: usize = 16 << 10;
const ARGUMENT_LIMIT: usize = 128;

/// Longest word of why it could not be executed, bytes.
const REASON_LIMIT: u64 = 1024;

/// How long it may take to be ready, and to end when its input has.
const READY: Duration = Duration::from_secs(10);
const END: Duration = Duration::from_secs(10);

/// Whose output it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    /// The container.
    pub(crate) id: &'a str,
    /// containerd's.
    pub(crate) namespace: &'a str,
}

/// The program, while it runs.
#[derive(Debug)]
pub(crate) struct Logger {
    child: tokio::process::Child,
    program: PathBuf,
}

/// Starts the program of an address; its ends of output and errors.
pub(crate) async fn start(
    address: &str,
    owner: Owner<'_>,
) -> Outcome<(Logger, pipe::Sender, pipe::Sender)> {
    let (program, arguments) = parse(address)?;
    let failed = |error: io::Error| {
        Failure::invalid(format!(
            "the program `{}` cannot take the output: {error}",
            program.display()
        ))
    };
    let new = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()));
    let ((out, to_out), (err, to_err)) = (new()?, new()?);
    let ((ready, tells), (reason, says)) = (new()?, new()?);
    let mut jail = Jail::new();
    let numbers = [out, err, tells, says].map(|fd| jail.inherit(fd).to_string());
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(PROGRAM)
        .args(numbers)
        .arg(&program)
        .args(arguments)
        .env_clear()
        .env("CONTAINER_ID", owner.id)
        .env("CONTAINER_NAMESPACE", owner.namespace);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let guard = jail.apply(&mut command);
    let mut command = tokio::process::Command::from(command);
    let child = command.kill_on_drop(true).spawn();
    drop(guard);
    let child = child.map_err(failed)?;
    let is_ready = async {
        let mut text = String::new();
        let reason = pipe::Receiver::from_owned_fd(reason)?;
        reason.take(REASON_LIMIT).read_to_string(&mut text).await?;
        if !text.is_empty() {
            return Err(io::Error::other(text));
        }
        // A word or the end: either is an answer.
        let mut ready = pipe::Receiver::from_owned_fd(ready)?;
        ready.read(&mut [0]).await.map(drop)
    };
    let waited = tokio::time::timeout(READY, is_ready).await;
    let late = io::Error::other(format!("it was not ready within {} s", READY.as_secs()));
    waited.unwrap_or(Err(late)).map_err(failed)?;
    let sender = |fd| pipe::Sender::from_owned_fd(fd).map_err(failed);
    let ends = (sender(to_out)?, sender(to_err)?);
    Ok((Logger { child, program }, ends.0, ends.1))
}

impl Logger {
    /// Lets it write down the last of what it was given, which has to be over.
    pub(crate) async fn end(mut self) {
        if tokio::time::timeout(END, self.child.wait()).await.is_err() {
            let program = self.program.display();
            tracing::warn!(%program, "what takes the output did not end with it, and was killed");
            let _ = self.child.kill().await;
        }
    }
}

/// The program and its arguments: the path, and key and value of each of its query.
fn parse(address: &str) -> Outcome<(PathBuf, Vec<String>)> {
    let wrong = |why: &str| {
        Failure::invalid(format!(
            "the output `{address}` names no program of this host: {why}"
        ))
    };
    if address.len() > ADDRESS_LIMIT {
        let text = format!("an address of an output has more than {ADDRESS_LIMIT} bytes");
        return Err(Failure::invalid(text));
    }
    let rest = address.strip_prefix(SCHEME).unwrap_or(address);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = percent_decode_str(path).decode_utf8();
    let path = path.map_err(|error| wrong(&error.to_string()))?;
    if !path.starts_with('/') || path.contains('\0') {
        return Err(wrong("binary:///PATH?KEY=VALUE is what is expected"));
    }
    let words = form_urlencoded::parse(query.as_bytes()).flat_map(|(key, value)| [key, value]);
    // A key may stand alone.
    let arguments: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(String::from)
        .collect();
    match arguments.len() {
        0..=ARGUMENT_LIMIT => Ok((PathBuf::from(path.into_owned()), arguments)),
        count => Err(wrong(&format!("{count} arguments are too many"))),
    }
}

/// The new process: becomes the program.
pub(crate) fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let mut words = words.map(|word| word.into_string().unwrap_or_default());
    let mut next = || {
        let number = words.next()?.parse().ok()?;
        bulkhead_sys::inherited(number)
    };
    let (Some(out), Some(err), Some(tells), Some(says)) = (next(), next(), next(), next()) else {
        return ExitCode::FAILURE;
    };
    let mut says = std::fs::File::from(says);
    let error = match place([out, err, tells]) {
        Ok(()) => Command::new(words.next().unwrap_or_default())
            .args(words)
            .exec(),
        Err(error) => error,
    };
    let _ = says.write_all(error.to_string().as_bytes());
    ExitCode::FAILURE
}

/// Puts descriptors where a program looks for them. Nothing else is open in this
/// process but what it was given.
fn place(given: [OwnedFd; 3]) -> io::Result<()> {
    let away = given.map(|fd| rustix::io::fcntl_dupfd_cloexec(&fd, AWAY));
    for (fd, place) in away.into_iter().zip(PLACES) {
        // The lowest that is free from there on.
        let placed = rustix::io::fcntl_dupfd_cloexec(fd?, place)?;
        if placed.as_raw_fd() != place {
            return Err(io::Error::other(format!("descriptor {place} is not free")));
        }
        rustix::io::fcntl_setfd(&placed, FdFlags::empty())?;
        // It is the program's from now on.
        let _ = placed.into_raw_fd();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_and_its_arguments_are_an_address() {
        let (path, arguments) = parse("binary:///usr/bin/a%20b?--dir=/x%2Fy&only&k=v+w").unwrap();
        assert_eq!(path, PathBuf::from("/usr/bin/a b"));
        assert_eq!(arguments, ["--dir", "/x/y", "only", "k", "v w"]);
        assert!(parse("binary:///bin/cat").unwrap().1.is_empty());
        let many = format!("binary:///bin/cat?{}", "a&".repeat(ARGUMENT_LIMIT + 1));
        let long = format!("binary:///{}", "x".repeat(ADDRESS_LIMIT));
        for wrong in [
            "binary://host/bin/cat",
            &many,
            &long,
            "binary:///%00",
            "binary://",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}

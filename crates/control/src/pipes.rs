//! The descriptors beside a request.

use std::os::fd::OwnedFd;

use tokio::net::unix::pipe;

use crate::Streams;

/// The pipes a command sent along, by what they are for.
#[derive(Debug, Default)]
pub struct Pipes {
    /// Its input.
    pub stdin: Option<pipe::Receiver>,
    /// Its output.
    pub stdout: Option<pipe::Sender>,
    /// Its errors.
    pub stderr: Option<pipe::Sender>,
}

impl Pipes {
    /// Sorts descriptors into their places.
    ///
    /// # Errors
    /// When some are missing or are no pipes.
    pub fn new(streams: Streams, fds: Vec<OwnedFd>) -> std::io::Result<Self> {
        if fds.len() != streams.count() {
            return Err(std::io::Error::other("the request lacks its descriptors"));
        }
        let mut fds = fds.into_iter();
        let mut take = |wanted: bool| if wanted { fds.next() } else { None };
        let (stdin, stdout, stderr) = (
            take(streams.stdin),
            take(streams.stdout),
            take(streams.stderr),
        );
        Ok(Self {
            stdin: stdin.map(pipe::Receiver::from_owned_fd).transpose()?,
            stdout: stdout.map(pipe::Sender::from_owned_fd).transpose()?,
            stderr: stderr.map(pipe::Sender::from_owned_fd).transpose()?,
        })
    }
}

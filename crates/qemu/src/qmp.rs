//! As much of QMP as a sandbox needs: a handshake, commands and files passed with
//! them, events ignored. docs/interop/qmp-spec of QEMU.
//!
//! QEMU speaks at any time, and would wait for a reader: a task reads all it
//! says as long as it runs.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use bulkhead_hypervisor::Error;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use crate::find::Version;

/// Longest line accepted from QEMU, bytes. QEMU is not trusted once a guest
/// runs in it.
const LINE_LIMIT: u64 = 1 << 20;

/// Answers kept that nobody has taken yet.
const ANSWERS_KEPT: usize = 4;

/// A monitor connection. Starting a machine does not wait for the handshake.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: OwnedWriteHalf,
    answers: mpsc::Receiver<Result<Value, String>>,
    greeted: bool,
    /// Of the last command, so that nobody takes the answer to one that was
    /// given up for their own.
    number: u64,
}

impl Qmp {
    pub(crate) fn new(stream: StdUnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (from, stream) = UnixStream::from_std(stream)?.into_split();
        let (tell, answers) = mpsc::channel(ANSWERS_KEPT);
        tokio::spawn(read(BufReader::new(from), tell));
        Ok(Self {
            stream,
            answers,
            greeted: false,
            number: 0,
        })
    }

    /// Runs a command without arguments and waits for its answer.
    pub(crate) async fn command(&mut self, name: &'static str) -> Result<(), Error> {
        self.ask(name, json!({}), None).await.map(|_| ())
    }

    /// Runs a command, with a file if it takes one; its answer.
    pub(crate) async fn ask(
        &mut self,
        name: &'static str,
        arguments: Value,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Value, Error> {
        if !self.greeted {
            self.greet().await?;
        }
        self.exchange(name, arguments, file).await
    }

    /// Does the handshake, once; QEMU says its version in it, and takes the
    /// first command when the machine is complete.
    pub(crate) async fn greet(&mut self) -> Result<Version, Error> {
        let failed = |detail: String| Error::Control {
            command: "greeting".to_owned(),
            detail,
        };
        let greeting = self.message().await.map_err(failed)?;
        let version = &greeting["QMP"]["version"]["qemu"];
        let part = |name| version[name].as_u64().and_then(|n| u32::try_from(n).ok());
        let version = match (part("major"), part("minor"), part("micro")) {
            (Some(major), Some(minor), Some(patch)) => Version(major, minor, patch),
            _ => return Err(failed("no version in it".to_owned())),
        };
        self.exchange("qmp_capabilities", json!({}), None).await?;
        self.greeted = true;
        Ok(version)
    }

    async fn message(&mut self) -> Result<Value, String> {
        let closed = || Err("the connection closed".to_owned());
        self.answers.recv().await.unwrap_or_else(closed)
    }

    async fn exchange(
        &mut self,
        name: &'static str,
        arguments: Value,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Value, Error> {
        let failed = |detail: String| Error::Control {
            command: name.to_owned(),
            detail,
        };
        self.number += 1;
        let request = json!({"execute": name, "arguments": arguments, "id": self.number});
        let sent = self.send(&format!("{request}\n"), file).await;
        sent.map_err(|e| failed(e.to_string()))?;
        loop {
            let mut message = self.message().await.map_err(failed)?;
            if message["id"].as_u64() != Some(self.number) {
                continue;
            }
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
            let detail = message["error"]["desc"].as_str().unwrap_or("unknown");
            return Err(failed(detail.to_owned()));
        }
    }

    /// A file travels with the first bytes.
    async fn send(&mut self, text: &str, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let bytes = text.as_bytes();
        let Some(file) = file else {
            return self.stream.write_all(bytes).await;
        };
        let files = [file];
        let stream: &UnixStream = self.stream.as_ref();
        let sent = stream.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&files));
            let parts = [IoSlice::new(bytes)];
            let flags = SendFlags::NOSIGNAL;
            let sent = rustix::net::sendmsg(stream.as_fd(), &parts, &mut control, flags);
            Ok(sent?)
        });
        let sent = sent.await?;
        self.stream.write_all(&bytes[sent..]).await
    }
}

/// Reads until QEMU ends or nobody wants its answers any more.
async fn read(mut from: BufReader<OwnedReadHalf>, tell: mpsc::Sender<Result<Value, String>>) {
    loop {
        let message = line(&mut from).await;
        let last = message.is_err();
        let is_event = |message: &Value| message.get("event").is_some();
        if message.as_ref().is_ok_and(is_event) {
            continue;
        }
        if tell.send(message).await.is_err() || last {
            return;
        }
    }
}

async fn line(from: &mut BufReader<OwnedReadHalf>) -> Result<Value, String> {
    let mut line = String::new();
    let mut limited = from.take(LINE_LIMIT);
    match limited.read_line(&mut line).await {
        Ok(0) => Err("the connection closed".to_owned()),
        Ok(_) => serde_json::from_str(&line).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests;

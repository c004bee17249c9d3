//! As much of QMP as a sandbox needs: a handshake, commands without
//! arguments, events ignored. docs/interop/qmp-spec of QEMU.

use std::os::unix::net::UnixStream as StdUnixStream;

use bulkhead_hypervisor::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::find::Version;

/// Longest line accepted from QEMU, bytes. QEMU is not trusted once a guest
/// runs in it.
const LINE_LIMIT: u64 = 1 << 20;

/// Lines read while waiting for one answer: events may stand in between.
const LINES_PER_ANSWER: usize = 64;

/// A monitor connection. Starting a machine does not wait for the handshake.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
    greeted: bool,
}

impl Qmp {
    pub(crate) fn new(stream: StdUnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: BufReader::new(UnixStream::from_std(stream)?),
            greeted: false,
        })
    }

    /// Runs a command without arguments and waits for its answer.
    pub(crate) async fn command(&mut self, name: &'static str) -> Result<(), Error> {
        if !self.greeted {
            self.greet().await?;
        }
        self.exchange(name).await
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
        self.exchange("qmp_capabilities").await?;
        self.greeted = true;
        Ok(version)
    }

    async fn message(&mut self) -> Result<serde_json::Value, String> {
        let mut line = String::new();
        let mut limited = (&mut self.stream).take(LINE_LIMIT);
        let read = limited.read_line(&mut line).await;
        match read.map_err(|error| error.to_string())? {
            0 => Err("the connection closed".to_owned()),
            _ => serde_json::from_str(&line).map_err(|error| error.to_string()),
        }
    }

    async fn exchange(&mut self, name: &'static str) -> Result<(), Error> {
        let failed = |detail: String| Error::Control {
            command: name.to_owned(),
            detail,
        };
        let request = format!("{{\"execute\":\"{name}\"}}\n");
        let sent = self.stream.get_mut().write_all(request.as_bytes()).await;
        sent.map_err(|e| failed(e.to_string()))?;
        for _ in 0..LINES_PER_ANSWER {
            let message = self.message().await.map_err(failed)?;
            if message.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = message.get("error") {
                return Err(failed(
                    error["desc"].as_str().unwrap_or("unknown").to_owned(),
                ));
            }
        }
        Err(failed(format!(
            "no answer within {LINES_PER_ANSWER} messages"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, Write};

    fn monitor(answers: &'static [&'static str]) -> Qmp {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut out = theirs.try_clone().unwrap();
            let mut lines = std::io::BufReader::new(theirs).lines();
            let version = r#"{"major":7,"minor":2,"micro":22}"#;
            writeln!(out, r#"{{"QMP":{{"version":{{"qemu":{version}}}}}}}"#).unwrap();
            for answer in answers {
                lines.next().unwrap().unwrap();
                writeln!(out, "{answer}").unwrap();
            }
        });
        Qmp::new(ours).unwrap()
    }

    #[tokio::test]
    async fn events_between_command_and_answer_are_skipped() {
        let mut qmp = monitor(&["{\"return\":{}}", "{\"event\":\"STOP\"}\n{\"return\":{}}"]);
        qmp.command("stop").await.unwrap();
    }

    #[tokio::test]
    async fn an_error_is_quoted() {
        let mut qmp = monitor(&["{\"return\":{}}", "{\"error\":{\"desc\":\"not now\"}}"]);
        let text = qmp.command("cont").await.unwrap_err().to_string();
        assert!(text.contains("cont") && text.contains("not now"), "{text}");
    }

    #[tokio::test]
    async fn a_dead_monitor_is_an_error_not_a_hang() {
        let mut qmp = monitor(&[]);
        assert!(qmp.command("cont").await.is_err());
    }
}

//! As much of QMP as a sandbox needs: a handshake, commands without
//! arguments, events ignored. docs/interop/qmp-spec of QEMU.

use std::os::unix::net::UnixStream as StdUnixStream;

use bulkhead_hypervisor::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// Longest line accepted from QEMU, bytes. QEMU is not trusted once a guest
/// runs in it.
const LINE_LIMIT: u64 = 1 << 20;

/// Lines read while waiting for one answer: events may stand in between.
const LINES_PER_ANSWER: usize = 64;

/// A monitor connection. The handshake is done with the first command, so
/// that starting a machine does not wait for it.
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
            self.exchange("qmp_capabilities").await?;
            self.greeted = true;
        }
        self.exchange(name).await
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
            let mut line = String::new();
            let mut limited = (&mut self.stream).take(LINE_LIMIT);
            let read = limited
                .read_line(&mut line)
                .await
                .map_err(|e| failed(e.to_string()))?;
            if read == 0 {
                return Err(failed("the connection closed".to_owned()));
            }
            let message: serde_json::Value =
                serde_json::from_str(&line).map_err(|e| failed(e.to_string()))?;
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
            writeln!(out, "{{\"QMP\":{{}}}}").unwrap();
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

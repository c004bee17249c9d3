//! Processes that have to live as long as the sandbox.

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, ExitStatus};

use rustix::process::{Pid, PidfdFlags};
use tokio::io::unix::AsyncFd;

/// A helper; it is killed when this is dropped.
#[derive(Debug)]
pub struct Helper {
    /// What it is to a person: "the file server of `/data`".
    name: String,
    child: Child,
}

impl Helper {
    /// Takes a child over. `name` is what it is to a person.
    pub fn new(name: String, child: Child) -> Self {
        Self { name, child }
    }

    /// What it is to a person.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, its own until it is dropped.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it writes, if that is a pipe; to be had once.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits until the helper fails, and says how. One that ends because the
    /// monitor closed its connection ends well and is not told of.
    async fn failure(&mut self) -> String {
        if let Err(error) = self.gone().await {
            tracing::warn!(%error, helper = self.name, "a helper cannot be watched");
            return std::future::pending().await;
        }
        match self.child.try_wait() {
            Ok(Some(status)) if status.success() => std::future::pending().await,
            Ok(Some(status)) => format!("{} {}", self.name, ended(status)),
            _ => format!("{} ended", self.name),
        }
    }

    async fn gone(&self) -> std::io::Result<()> {
        let pid = Pid::from_child(&self.child);
        // The child was not waited for: the number is still its own.
        readable(rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?).await
    }
}

/// Answers when a descriptor can be read: a process's when it has ended (pidfd_open(2)),
/// a pipe's when nobody has its other end.
///
/// # Errors
/// A descriptor that cannot be waited for: epoll_ctl(2).
#[expect(
    deprecated,
    reason = "an OwnedFd keeps its descriptor, which is all `register` asks for"
)]
pub async fn readable(fd: OwnedFd) -> std::io::Result<()> {
    AsyncFd::new(fd)?.readable().await?.retain_ready();
    Ok(())
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until one of the helpers fails, and says which and how.
pub async fn failure(helpers: &mut [Helper]) -> String {
    let mut watches: Vec<_> = helpers
        .iter_mut()
        .map(|helper| Box::pin(helper.failure()))
        .collect();
    std::future::poll_fn(|context| {
        for watch in &mut watches {
            if let std::task::Poll::Ready(text) = watch.as_mut().poll(context) {
                return std::task::Poll::Ready(text);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

fn ended(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, Some(code)) => format!("ended with code {code}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn helper(script: &str) -> Helper {
        let child = Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Helper::new("the helper".to_owned(), child)
    }

    #[tokio::test]
    async fn the_first_that_fails_is_named() {
        let mut helpers = [helper("sleep 60"), helper("kill -9 $$"), helper("exit 0")];
        let told = failure(&mut helpers).await;
        assert_eq!(told, "the helper was killed by signal 9");
        assert_eq!(
            failure(&mut [helper("exit 3")]).await,
            "the helper ended with code 3"
        );
    }
}

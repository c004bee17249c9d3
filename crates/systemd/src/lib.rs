//! What is asked of the machine's systemd, over D-Bus: org.freedesktop.systemd1(5).
//!
//! ```text
//!   Systemd ─┬─ restart_any(units)      a service, waited for
//!            └─ look_after(scope, pids) a control group that is there already
//! ```

mod restart;
mod scope;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use zbus::Connection;
use zbus::connection::Builder;
use zbus::proxy::SignalStream;
use zbus::zvariant::OwnedObjectPath;

pub use scope::Scope;

/// How long it may take to answer a question. A broken connection would else be
/// waited for without end.
const ANSWER: Duration = Duration::from_secs(30);

/// systemd, of a machine.
#[derive(Debug)]
pub struct Systemd {
    socket: PathBuf,
    bus: bool,
}

/// Why systemd did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SystemdError {
    /// No systemd.
    #[error("systemd does not answer at `{}`", socket.display())]
    Connect {
        /// Its socket.
        socket: PathBuf,
        /// What happened.
        #[source]
        source: zbus::Error,
    },
    /// It answered with an error.
    #[error("systemd could not {what}")]
    Call {
        /// What it was asked.
        what: String,
        /// What it answered.
        #[source]
        source: zbus::Error,
    },
    /// None of the units exists and runs.
    #[error("no unit of these is active: {}", units.join(", "))]
    NoUnit {
        /// Which were looked for.
        units: Vec<String>,
    },
    /// The job ended otherwise.
    #[error("the {what} of `{unit}` ended as `{result}`; see `journalctl -u {unit}`")]
    Job {
        /// "restart", "start".
        what: &'static str,
        /// Which unit.
        unit: String,
        /// systemd's word.
        result: String,
    },
    /// The job did not end.
    #[error("the {what} of `{unit}` takes longer than {} s; see `systemctl status {unit}`",
            limit.as_secs())]
    Slow {
        /// "restart", "start".
        what: &'static str,
        /// Which unit.
        unit: String,
        /// How long it was waited.
        limit: Duration,
    },
}

impl Systemd {
    /// The one of the machine whose root this is, by the system bus. Not by its own
    /// socket, `/run/systemd/private`: the sender of what comes from there is
    /// `org.freedesktop.systemd1`, no unique name, at which `zbus` (5.19) panics.
    #[must_use]
    pub fn of(root: &Path) -> Self {
        Self {
            socket: root.join("run/dbus/system_bus_socket"),
            bus: true,
        }
    }

    /// One that listens at a socket without a bus between.
    #[must_use]
    pub fn at(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            bus: false,
        }
    }

    /// Is it the machine's first process? sd_booted(3).
    #[must_use]
    pub fn runs(root: &Path) -> bool {
        root.join("run/systemd/system").is_dir()
    }

    async fn connect(&self) -> Result<Connection, SystemdError> {
        let failed = |source| SystemdError::Connect {
            socket: self.socket.clone(),
            source,
        };
        let address = format!("unix:path={}", self.socket.display());
        let builder = Builder::address(address.as_str()).map_err(failed)?;
        let builder = builder.method_timeout(ANSWER);
        let builder = if self.bus { builder } else { builder.p2p() };
        builder.build().await.map_err(failed)
    }
}

fn failed(what: &str) -> impl Fn(zbus::Error) -> SystemdError {
    move |source| SystemdError::Call {
        what: what.to_owned(),
        source,
    }
}

async fn manager(connection: &Connection) -> Result<zbus::Proxy<'_>, SystemdError> {
    let manager = zbus::Proxy::new(
        connection,
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
    );
    manager.await.map_err(failed("be asked"))
}

/// The ends of systemd's jobs, from now on.
struct Jobs<'a>(SignalStream<'a>);

impl<'a> Jobs<'a> {
    /// Before a job is asked for, so that its end is not missed.
    async fn watch(manager: &zbus::Proxy<'a>) -> Result<Self, SystemdError> {
        let asked = failed("be listened to");
        let ended = manager.receive_signal("JobRemoved").await.map_err(&asked)?;
        manager
            .call::<_, _, ()>("Subscribe", &())
            .await
            .map_err(&asked)?;
        Ok(Self(ended))
    }

    /// Waits for the end of one, which has to be "done".
    async fn done(
        &mut self,
        job: &OwnedObjectPath,
        what: &'static str,
        unit: &str,
        limit: Duration,
    ) -> Result<(), SystemdError> {
        let unit = unit.to_owned();
        match tokio::time::timeout(limit, self.result(job)).await {
            Err(_) => Err(SystemdError::Slow { what, unit, limit }),
            Ok(Err(source)) => Err(failed(&format!("{what} `{unit}`"))(source)),
            Ok(Ok(result)) if result == "done" => Ok(()),
            Ok(Ok(result)) => Err(SystemdError::Job { what, unit, result }),
        }
    }

    async fn result(&mut self, job: &OwnedObjectPath) -> zbus::Result<String> {
        while let Some(message) = self.0.next().await {
            let body = message.body();
            let (_, path, _, result): (u32, OwnedObjectPath, String, String) =
                body.deserialize()?;
            if path == *job {
                return Ok(result);
            }
        }
        Err(zbus::Error::Failure("the connection ended".to_owned()))
    }
}

#[cfg(test)]
mod tests;

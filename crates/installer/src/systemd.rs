//! Restarts units by asking systemd itself, over D-Bus.
//! org.freedesktop.systemd1(5).

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use zbus::Connection;
use zbus::connection::Builder;
use zbus::zvariant::OwnedObjectPath;

use crate::runtime::Runtime;
use crate::seams::{Reason, Supervisor};

/// How long a restart may take: what systemd gives a unit to stop and to
/// start, by default 90 s each, and a little more.
const RESTART: Duration = Duration::from_secs(200);

/// How long it may take to answer a question. A broken connection would else be
/// waited for without end.
const ANSWER: Duration = Duration::from_secs(30);

/// systemd, of a machine.
#[derive(Debug)]
pub struct Systemd {
    socket: PathBuf,
    bus: bool,
}

/// Why a unit was not restarted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SystemdError {
    /// No systemd.
    #[error(
        "systemd does not answer at `{}`; where something else runs the container runtime, give \
         --restart-with or --no-restart", socket.display()
    )]
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
    #[error("no unit of {runtime} is active: {}", runtime.units().join(", "))]
    NoUnit {
        /// Whose.
        runtime: Runtime,
    },
    /// The job ended otherwise.
    #[error("the restart of `{unit}` ended as `{result}`; see `journalctl -u {unit}`")]
    Job {
        /// Which.
        unit: String,
        /// systemd's word.
        result: String,
    },
    /// The job did not end.
    #[error("the restart of `{unit}` takes longer than {} s; see `systemctl status {unit}`",
            RESTART.as_secs())]
    Slow {
        /// Which.
        unit: String,
    },
    /// The kernel gives no event queue.
    #[error("no event queue")]
    Queue(#[source] std::io::Error),
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

    async fn restart_any(&self, runtime: Runtime) -> Result<(), SystemdError> {
        let connection = self.connect().await?;
        let manager = zbus::Proxy::new(
            &connection,
            "org.freedesktop.systemd1",
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
        );
        let manager = manager.await.map_err(failed("be asked"))?;
        for unit in runtime.units() {
            if is_active(&connection, &manager, unit).await {
                return restart(&manager, unit).await;
            }
        }
        Err(SystemdError::NoUnit { runtime })
    }
}

fn failed(what: &str) -> impl Fn(zbus::Error) -> SystemdError {
    move |source| SystemdError::Call {
        what: what.to_owned(),
        source,
    }
}

/// A unit systemd has not loaded is not active.
async fn is_active(connection: &Connection, manager: &zbus::Proxy<'_>, unit: &str) -> bool {
    let state = async {
        let path: OwnedObjectPath = manager.call("GetUnit", &unit).await?;
        let unit = zbus::Proxy::new(
            connection,
            "org.freedesktop.systemd1",
            path,
            "org.freedesktop.systemd1.Unit",
        );
        unit.await?.get_property::<String>("ActiveState").await
    };
    state.await.is_ok_and(|state| state == "active")
}

async fn restart(manager: &zbus::Proxy<'_>, unit: &str) -> Result<(), SystemdError> {
    let asked = failed("be listened to");
    // Before the question, so that the answer is not missed.
    let mut ended = manager.receive_signal("JobRemoved").await.map_err(&asked)?;
    manager
        .call::<_, _, ()>("Subscribe", &())
        .await
        .map_err(&asked)?;
    let job: OwnedObjectPath = manager
        .call("RestartUnit", &(unit, "replace"))
        .await
        .map_err(failed(&format!("restart `{unit}`")))?;
    let result = async {
        while let Some(message) = ended.next().await {
            let body = message.body();
            let (_, path, _, result): (u32, OwnedObjectPath, String, String) =
                body.deserialize()?;
            if path == job {
                return Ok(result);
            }
        }
        Err(zbus::Error::Failure("the connection ended".to_owned()))
    };
    match tokio::time::timeout(RESTART, result).await {
        Err(_) => Err(SystemdError::Slow {
            unit: unit.to_owned(),
        }),
        Ok(Err(source)) => Err(failed(&format!("restart `{unit}`"))(source)),
        Ok(Ok(result)) if result == "done" => Ok(()),
        Ok(Ok(result)) => Err(SystemdError::Job {
            unit: unit.to_owned(),
            result,
        }),
    }
}

impl Supervisor for Systemd {
    fn restart(&mut self, runtime: Runtime) -> Result<(), Reason> {
        if runtime.units().is_empty() {
            return Ok(());
        }
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(SystemdError::Queue)?;
        Ok(tokio.block_on(self.restart_any(runtime))?)
    }
}

#[cfg(test)]
mod tests;

//! Restarts of services.

use std::time::Duration;

use zbus::Connection;
use zbus::zvariant::OwnedObjectPath;

use super::{Jobs, Systemd, SystemdError, failed, manager};

/// How long a restart may take: what systemd gives a unit to stop and to
/// start, by default 90 s each, and a little more.
const RESTART: Duration = Duration::from_secs(200);

impl Systemd {
    /// Restarts the first of these units that is active, and waits until it is up.
    ///
    /// # Errors
    /// [`SystemdError`].
    pub async fn restart_any(&self, units: &[&str]) -> Result<(), SystemdError> {
        let connection = self.connect().await?;
        let manager = manager(&connection).await?;
        for unit in units {
            if is_active(&connection, &manager, unit).await {
                return restart(&manager, unit).await;
            }
        }
        Err(SystemdError::NoUnit {
            units: units.iter().map(|&unit| unit.to_owned()).collect(),
        })
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
    let mut jobs = Jobs::watch(manager).await?;
    let job = manager.call("RestartUnit", &(unit, "replace")).await;
    let job = job.map_err(failed(&format!("restart `{unit}`")))?;
    jobs.done(&job, "restart", unit, RESTART).await
}

//! Scopes: groups of processes systemd did not start. systemd.scope(5).

use std::time::Duration;

use zbus::zvariant::{OwnedObjectPath, Value};

use super::{Jobs, Systemd, SystemdError, failed, manager};

/// How long the start of a scope may take: nothing is executed for it.
const START: Duration = Duration::from_secs(30);

/// systemd's error when a unit of this name is there.
const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// No limit, of a number. systemd.resource-control(5).
const INFINITY: u64 = u64::MAX;

/// A scope by its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The slice it is in: `machine.slice`.
    pub slice: String,
    /// Its own name: `libpod-1234.scope`.
    pub name: String,
    /// What people are told it is.
    pub description: String,
}

/// A property of a unit.
type Property<'a> = (&'a str, Value<'a>);

/// A unit that is to be made beside another, of which we have none.
type Auxiliary<'a> = (&'a str, Vec<Property<'a>>);

impl Systemd {
    /// Lets systemd look after processes as a scope, whose control group may be there
    /// already. What is below is the owner's (`Delegate`): systemd neither takes
    /// controllers away from it nor moves what is in it. One that is there gets the
    /// processes.
    ///
    /// # Errors
    /// [`SystemdError`], also when one of the processes has ended.
    pub async fn look_after(&self, scope: &Scope, processes: &[u32]) -> Result<(), SystemdError> {
        let connection = self.connect().await?;
        let manager = manager(&connection).await?;
        let mut jobs = Jobs::watch(&manager).await?;
        let asked = (
            scope.name.as_str(),
            "replace",
            properties(scope, processes),
            Vec::<Auxiliary<'_>>::new(),
        );
        let started: zbus::Result<OwnedObjectPath> =
            manager.call("StartTransientUnit", &asked).await;
        let name = &scope.name;
        match started {
            Ok(job) => jobs.done(&job, "start", name, START).await,
            Err(zbus::Error::MethodError(error, ..)) if error.as_str() == EXISTS => {
                let more = (name.as_str(), "", processes);
                let attached = manager.call("AttachProcessesToUnit", &more).await;
                attached.map_err(failed(&format!("add processes to `{name}`")))
            }
            Err(source) => Err(failed(&format!("start `{name}`"))(source)),
        }
    }
}

/// Of a group whose limits are not systemd's to set: without a number of tasks said,
/// a scope has some percent of the machine's.
fn properties<'a>(scope: &'a Scope, processes: &[u32]) -> Vec<Property<'a>> {
    vec![
        ("Description", scope.description.as_str().into()),
        ("Slice", scope.slice.as_str().into()),
        ("PIDs", processes.to_vec().into()),
        ("Delegate", true.into()),
        ("DefaultDependencies", false.into()),
        ("CollectMode", "inactive-or-failed".into()),
        ("CPUAccounting", true.into()),
        ("MemoryAccounting", true.into()),
        ("TasksAccounting", true.into()),
        ("IOAccounting", true.into()),
        ("TasksMax", INFINITY.into()),
    ]
}

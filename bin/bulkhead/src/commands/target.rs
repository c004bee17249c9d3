//! What a name means: a container of `bulkhead run`, or a pod, or a container
//! of a pod.

use std::path::Path;

use bulkhead_control::{Answer, Request, Socket};
use bulkhead_status::{FindError, Found, Located};
use oci_spec::runtime::Process;

use super::open_client;
use crate::client::Client;
use crate::report::CommandError;
use crate::state::{ContainerDir, Root, StateError};

/// What was named. A container of `bulkhead run` comes before a pod.
pub(super) enum Target {
    Own(ContainerDir),
    Pod(Box<Found>),
}

/// Where a process is to run, and beside which.
pub(super) struct Place {
    pub(super) client: Client,
    /// The container's first process.
    pub(super) first: Process,
    /// As whom that one runs, where its spec does not say it.
    pub(super) user: String,
    /// Id of the container of a pod; empty: the one the machine has.
    pub(super) container: String,
}

/// Finds what a name means.
pub(super) fn target(root: &Root, name: &str) -> Result<Target, CommandError> {
    match root.find(name) {
        Ok(dir) => Ok(Target::Own(dir)),
        Err(StateError::NoContainer(_)) => match member(name)? {
            Some(found) => Ok(Target::Pod(Box::new(found))),
            None => Err(CommandError::new(format!(
                "there is no container and no pod `{name}`; `bulkhead ps --all` and `bulkhead \
                 pods` list them"
            ))),
        },
        Err(error) => Err(error.into()),
    }
}

/// `None`: nothing of the name, or nothing this user may see.
fn member(name: &str) -> Result<Option<Found>, CommandError> {
    let Ok(all) = bulkhead_status::located(Path::new(bulkhead_status::ROOT)) else {
        return Ok(None);
    };
    match bulkhead_status::member(&all, name) {
        Ok(found) => Ok(Some(found)),
        Err(FindError::NoPod(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The pods of this host.
pub(super) fn pods() -> Result<Vec<Located>, CommandError> {
    let root = Path::new(bulkhead_status::ROOT);
    bulkhead_status::located(root).map_err(|error| {
        CommandError::new(format!(
            "the pods in `{}` cannot be listed: {error}; they are root's",
            root.display()
        ))
    })
}

/// A conversation with a pod.
pub(super) fn converse(dir: &Path) -> Result<Client, CommandError> {
    let socket = Socket::connect(dir).map_err(|error| {
        CommandError::new(format!(
            "the pod in `{}` does not take commands: {error}",
            dir.display()
        ))
    })?;
    Ok(Client::new(socket))
}

/// The first process of a pod's container, as it was to be run.
pub(super) fn first_process(client: &Client, id: &str) -> Result<Process, CommandError> {
    let container = id.to_owned();
    match client.ask(Request::Process { container })? {
        Answer::Process(process) => Ok(*process),
        _ => Err(strange_answer()),
    }
}

/// A pod that speaks of something else.
pub(super) fn strange_answer() -> CommandError {
    CommandError::new("the pod answers something else than it was asked")
}

/// Finds the container in which a further process is to run.
pub(super) fn place(root: &Root, name: &str) -> Result<Place, CommandError> {
    match target(root, name)? {
        Target::Own(dir) => {
            let record = dir.record()?;
            if !dir.state()?.is_live() {
                return Err(StateError::NotRunning(record.name).into());
            }
            Ok(Place {
                client: open_client(&dir, &record)?,
                first: record.spec.process().clone().unwrap_or_default(),
                user: record.user,
                container: String::new(),
            })
        }
        Target::Pod(found) => {
            let container = found.container()?.id;
            let client = converse(&found.dir)?;
            Ok(Place {
                first: first_process(&client, &container)?,
                client,
                user: String::new(),
                container,
            })
        }
    }
}

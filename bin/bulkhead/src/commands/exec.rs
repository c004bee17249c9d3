//! `bulkhead exec`.

use std::process::ExitCode;

use bulkhead_control::{ExecSpec, Request};
use oci_spec::runtime::Process;

use super::open_client;
use super::target::{self, Target};
use crate::cli::ExecOptions;
use crate::client::{Client, Wanted, terminal_size};
use crate::report::{CommandError, Outcome};
use crate::spec;
use crate::state::{Root, StateError};

/// Where a process is to run, and beside which.
struct Place {
    client: Client,
    first: Process,
    user: String,
    /// Id of the container of a pod.
    container: String,
}

/// Runs a process in a running container.
pub(super) fn run(root: &Root, options: ExecOptions) -> Outcome {
    let place = find(root, &options.name)?;
    let environment = |name: &str| std::env::var(name).ok();
    let mut process = spec::exec_process(
        &place.first,
        &spec::ExecRequest {
            command: options.command,
            env: options.env,
            workdir: options.workdir,
            terminal: options.tty,
            privileged: options.privileged,
        },
        &environment,
    )?;
    if options.user.is_some() {
        // The groups of one user are not another's.
        let mut user = process.user().clone();
        user.set_additional_gids(None);
        process.set_user(user);
    }
    let spec = ExecSpec {
        container: place.container,
        process,
        user: options.user.unwrap_or(place.user),
        privileged: options.privileged,
        size: terminal_size().filter(|_| options.tty),
        archive: None,
    };
    let wanted = Wanted {
        stdin: options.interactive,
        terminal: options.tty,
        proxy_signals: false,
    };
    let client = place.client;
    let attachment = client.attach(wanted, |streams| Request::Exec(Box::new(spec), streams))?;
    client.answer(attachment.number())?;
    if options.detach {
        return Ok(ExitCode::SUCCESS);
    }
    client.run(attachment)
}

fn find(root: &Root, name: &str) -> Result<Place, CommandError> {
    match target::target(root, name)? {
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
            let client = target::converse(&found.dir)?;
            Ok(Place {
                first: target::first_process(&client, &container)?,
                client,
                user: String::new(),
                container,
            })
        }
    }
}

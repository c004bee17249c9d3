//! `bulkhead exec`.

use std::process::ExitCode;

use bulkhead_control::{ExecSpec, Request};

use super::target;
use crate::cli::ExecOptions;
use crate::client::{Wanted, terminal_size};
use crate::report::Outcome;
use crate::spec;
use crate::state::Root;

/// Runs a process in a running container.
pub(super) fn run(root: &Root, options: ExecOptions) -> Outcome {
    let place = target::place(root, &options.name)?;
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

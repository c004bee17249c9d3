//! `bulkhead exec`.

use std::process::ExitCode;

use super::connect;
use crate::cli::ExecOptions;
use crate::client::{Wanted, terminal_size};
use crate::control::{ExecSpec, Request};
use crate::report::Outcome;
use crate::spec;
use crate::state::Root;

/// Runs a process in a running container.
pub(super) fn run(root: &Root, options: ExecOptions) -> Outcome {
    let (_, record, client) = connect(root, &options.name)?;
    let environment = |name: &str| std::env::var(name).ok();
    let process = spec::exec_process(
        &record.spec,
        &spec::ExecRequest {
            command: options.command,
            env: options.env,
            workdir: options.workdir,
            terminal: options.tty,
            privileged: options.privileged,
        },
        &environment,
    )?;
    let spec = ExecSpec {
        process,
        user: options.user.unwrap_or(record.user),
        privileged: options.privileged,
        size: terminal_size().filter(|_| options.tty),
        archive: None,
    };
    let wanted = Wanted {
        stdin: options.interactive,
        terminal: options.tty,
        proxy_signals: false,
    };
    let attachment = client.attach(wanted, |streams| Request::Exec(Box::new(spec), streams))?;
    client.answer(attachment.number())?;
    if options.detach {
        return Ok(ExitCode::SUCCESS);
    }
    client.run(attachment)
}

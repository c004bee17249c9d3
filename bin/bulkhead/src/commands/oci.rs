//! The verbs of an OCI runtime.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::signal;
use super::time::rfc3339;
use crate::cli::oci::{CreateOptions, LogFormat, OciCommand};
use crate::cli::{ExecOptions, Format, KillOptions, Names, PsOptions};
use crate::oci::{self, Creation, Execution};
use crate::report::{CommandError, Outcome};

/// Runs one.
pub(super) fn run(command: OciCommand, config: Option<PathBuf>) -> Outcome {
    Ok(match command {
        OciCommand::Create(options) => create(options, config)?,
        OciCommand::Start(name) => oci::start(&name.name)?,
        OciCommand::State(name) => oci::state(&name.name)?,
        OciCommand::Delete { force, name } => oci::delete(&name.name, force)?,
        OciCommand::Update { resources, name } => oci::update(&name.name, &resources)?,
        OciCommand::List(format) => list(format.format)?,
        OciCommand::Features => {
            println!("{:#}", oci::features());
            ExitCode::SUCCESS
        }
    })
}

fn refuse_descriptors(count: u32) -> Result<(), CommandError> {
    match count {
        0 => Ok(()),
        _ => Err(CommandError::new(
            "--preserve-fds: open files of this host cannot be handed to another kernel",
        )),
    }
}

fn create(options: CreateOptions, config: Option<PathBuf>) -> Outcome {
    refuse_descriptors(options.preserve_fds)?;
    Ok(oci::create(&Creation {
        id: options.id,
        bundle: options.bundle,
        pid_file: options.pid_file,
        console_socket: options.console_socket,
        config,
    })?)
}

/// `exec --process`; none: it is not that.
pub(super) fn exec(options: &ExecOptions) -> Option<Outcome> {
    let process = options.oci.process.clone()?;
    Some(exec_process(options, process))
}

fn exec_process(options: &ExecOptions, process: PathBuf) -> Outcome {
    refuse_descriptors(options.oci.preserve_fds)?;
    Ok(oci::exec(&Execution {
        id: options.name.clone(),
        process,
        terminal: options.tty,
        pid_file: options.oci.pid_file.clone(),
        console_socket: options.oci.console_socket.clone(),
        detach: options.detach,
    })?)
}

/// `kill ID [SIGNAL]`; none: what is named is no container of `create`.
pub(super) fn kill(options: &KillOptions) -> Option<Outcome> {
    let (id, said) = match options.names.names.as_slice() {
        [id] => (id, options.signal.as_str()),
        [id, signal] => (id, signal.as_str()),
        _ => return None,
    };
    if !oci::exists(id) {
        return None;
    }
    let number = match signal::parse(said) {
        Ok(number) => number,
        Err(error) => return Some(Err(error)),
    };
    Some(oci::kill(id, number, options.all).map_err(CommandError::from))
}

/// `pause ID`, `resume ID`; none: what is named is no container of `create`.
pub(super) fn pause(names: &Names, pause: bool) -> Option<Outcome> {
    match names.names.as_slice() {
        [id] if oci::exists(id) => Some(oci::pause(id, pause).map_err(CommandError::from)),
        _ => None,
    }
}

/// `ps --format json ID`, as containerd's shim for OCI runtimes asks; none: what is named
/// is no container of `create`.
pub(super) fn ps(options: &PsOptions) -> Option<Outcome> {
    let id = options.pod.as_deref()?;
    if options.format.format != Format::Json || !oci::exists(id) {
        return None;
    }
    let told = oci::host_processes(id).map(|pids| {
        println!("{}", Value::from(pids));
        ExitCode::SUCCESS
    });
    Some(told.map_err(CommandError::from))
}

fn list(format: Format) -> Outcome {
    let all = oci::list()?;
    if format == Format::Json {
        println!("{:#}", Value::from(all));
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<64} {:<8} {:<8} BUNDLE", "ID", "PID", "STATUS");
    for own in all {
        let text = |name: &str| own[name].as_str().unwrap_or_default().to_owned();
        let (id, status, bundle) = (text("id"), text("status"), text("bundle"));
        println!("{id:<64} {:<8} {status:<8} {bundle}", own["pid"]);
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes an error where the caller of an OCI runtime looks for it.
pub(crate) fn log(path: &Path, format: LogFormat, error: &CommandError) {
    let time = rfc3339(SystemTime::now());
    let text = error.text();
    let line = match format {
        LogFormat::Json => json!({"level": "error", "msg": text, "time": time}).to_string(),
        LogFormat::Text => format!("time={time:?} level=error msg={text:?}"),
    };
    let file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(path);
    // The error is told on standard error anyway.
    let _ = file.and_then(|mut file| writeln!(file, "{line}"));
}

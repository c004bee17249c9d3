//! One file per verb.

mod attach;
mod check;
mod cluster;
mod completion;
mod config;
mod cp;
mod debug;
mod direct_volume;
mod events;
mod exec;
mod guest;
pub(crate) mod hidden;
mod image;
mod inspect;
mod lifecycle;
mod logs;
mod monitor;
mod node;
pub(crate) mod oci;
mod pods;
mod ps;
mod rm;
mod run;
mod signal;
mod stats;
mod target;
pub(crate) mod time;
mod version;

use std::path::PathBuf;

use crate::cli::{Cli, Command};
use crate::client::Client;
use crate::report::{CommandError, Outcome};
use crate::state::{ContainerDir, Record, Root, StateError};
use bulkhead_control::Socket;

/// Runs the command a user typed.
pub(crate) fn run(cli: Cli) -> Outcome {
    let root = || Ok::<_, CommandError>(Root::open(&root_path(cli.root.clone())?)?);
    match cli.command {
        Command::Run(options) => run::run(&root()?, *options),
        Command::Exec(options) => {
            oci::exec(&options).unwrap_or_else(|| exec::run(&root()?, options))
        }
        Command::Debug(options) => debug::run(&root()?, options),
        Command::Cp(options) => cp::run(&root()?, &options),
        Command::Ps(options) => oci::ps(&options).unwrap_or_else(|| ps::run(&root()?, &options)),
        Command::Logs(options) => logs::run(&root()?, &options),
        Command::Attach(options) => attach::run(&root()?, &options),
        Command::Stop(options) => lifecycle::stop(&root()?, &options),
        Command::Kill(options) => {
            oci::kill(&options).unwrap_or_else(|| lifecycle::kill(&root()?, &options))
        }
        Command::Wait(names) => lifecycle::wait(&root()?, &names),
        Command::Pause(names) => {
            oci::pause(&names, true).unwrap_or_else(|| lifecycle::pause(&root()?, &names, true))
        }
        Command::Unpause(names) => {
            oci::pause(&names, false).unwrap_or_else(|| lifecycle::pause(&root()?, &names, false))
        }
        Command::Rm(options) => rm::run(&root()?, &options),
        Command::Inspect(names) => inspect::run(&root()?, &names),
        Command::Stats(options) => stats::run(&root()?, &options),
        Command::Top(name) => stats::top(&root()?, &name),
        Command::Events(options) => events::run(&root()?, &options),
        Command::Image(command) => image::run(&root()?, command),
        Command::Guest(command) => guest::run(command),
        Command::Pods(options) => pods::run(&options),
        Command::Monitor(options) => monitor::run(&options),
        Command::Config(command) => config::run(&command),
        Command::DirectVolume(command) => direct_volume::run(&command),
        Command::Node(command) => node::run(command),
        Command::Cluster { arguments } => cluster::run(&arguments),
        Command::Oci(command) => oci::run(command, cli.oci.machine_config),
        Command::Check(options) => check::run(&options),
        Command::Version(format) => version::run(&format),
        Command::Completion { shell } => completion::run(shell),
        Command::Man { dir } => completion::man(&dir),
    }
}

/// Where everything is kept when nothing is said.
fn root_path(said: Option<PathBuf>) -> Result<PathBuf, CommandError> {
    if let Some(path) = said {
        return Ok(std::path::absolute(path)?);
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/bulkhead".into());
    }
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    data.or_else(home)
        .map(|dir| dir.join("bulkhead"))
        .ok_or_else(|| CommandError::new("neither XDG_DATA_HOME nor HOME is set; use --root"))
}

/// A container that runs, and a conversation with it.
fn connect(root: &Root, name: &str) -> Result<(ContainerDir, Record, Client), CommandError> {
    let dir = root.find(name)?;
    let record = dir.record()?;
    if !dir.state()?.is_live() {
        return Err(StateError::NotRunning(record.name).into());
    }
    let client = open_client(&dir, &record)?;
    Ok((dir, record, client))
}

fn open_client(dir: &ContainerDir, record: &Record) -> Result<Client, CommandError> {
    let socket = Socket::connect(dir.path()).map_err(|error| match error.kind() {
        // It ended between the look at its state and now.
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            CommandError::from(StateError::NotRunning(record.name.clone()))
        }
        _ => CommandError::from(error),
    })?;
    Ok(Client::new(socket))
}

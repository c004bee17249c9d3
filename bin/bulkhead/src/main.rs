//! `bulkhead`: run OCI containers, each in its own virtual machine.
//!
//! The one program of the runtime. People see the commands; the same binary
//! is, under a name nobody types, the supervisor behind each container.

mod cli;
mod client;
mod commands;
mod oci;
mod report;
mod seccomp;
mod spec;
mod state;
mod style;
mod supervisor;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    if let Some(code) = commands::hidden::dispatch() {
        return code;
    }
    let cli = cli::Cli::parse();
    init_logging(cli.verbose);
    let log = cli.oci.log.clone().map(|path| (path, cli.oci.log_format));
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => {
            if let Some((path, format)) = log {
                commands::oci::log(&path, format, &error);
            }
            error.report()
        }
    }
}

fn init_logging(verbose: bool) {
    use tracing_subscriber::EnvFilter;
    let level = if verbose { "debug" } else { "warn" };
    let filter = EnvFilter::try_from_env("BULKHEAD_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .init();
}

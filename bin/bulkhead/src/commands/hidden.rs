//! What the program is under names nobody types. The arguments are numbers
//! of inherited descriptors and paths of our own making.

use std::env::ArgsOs;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use bulkhead_share::Order;

use crate::report;
use crate::supervisor::{self, Inheritance};

/// Name of a supervisor.
pub(crate) const SUPERVISOR: &str = "bulkhead-supervisor";

/// Name of the file server of a volume.
pub(crate) const FILE_SERVER: &str = "bulkhead-file-server";

/// Becomes a supervisor or a file server when that is what was executed.
pub(crate) fn dispatch() -> Option<ExitCode> {
    let mut args = std::env::args_os();
    match args.next()?.to_str()? {
        SUPERVISOR => {
            crate::init_logging(false);
            Some(supervise(args).unwrap_or(ExitCode::from(125)))
        }
        FILE_SERVER => Some(serve_files(args)),
        _ => None,
    }
}

fn supervise(mut args: ArgsOs) -> Option<ExitCode> {
    let root = args.next()?.into();
    let dir = args.next()?.into();
    let lock = descriptor(&mut args)?;
    let creator = descriptor(&mut args)?;
    Some(supervisor::main(Inheritance {
        root,
        dir,
        lock,
        creator,
    }))
}

/// Serves a volume; why it cannot goes to standard output, where the
/// supervisor reads it.
fn serve_files(mut args: ArgsOs) -> ExitCode {
    let (Some(dir), Some(listener)) = (descriptor(&mut args), descriptor(&mut args)) else {
        return ExitCode::from(125);
    };
    let served = Order::read(std::io::stdin())
        .map_err(|error| error.to_string())
        .and_then(|order| {
            bulkhead_share::serve(&order, dir, listener, std::io::stdout())
                .map_err(|error| report::chain(&error))
        });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            println!("{text}");
            ExitCode::from(125)
        }
    }
}

fn descriptor(args: &mut ArgsOs) -> Option<OwnedFd> {
    bulkhead_sys::inherited(args.next()?.to_str()?.parse().ok()?)
}

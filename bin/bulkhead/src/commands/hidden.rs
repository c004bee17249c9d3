//! What the program is under names nobody types. The arguments are numbers
//! of inherited descriptors and paths of our own making.

use std::env::ArgsOs;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use bulkhead_provision::share;

use crate::oci::stand_in;
use crate::supervisor::{self, Inheritance};

/// Name of a supervisor.
pub(crate) const SUPERVISOR: &str = "bulkhead-supervisor";

/// Becomes a supervisor or a file server when that is what was executed.
pub(crate) fn dispatch() -> Option<ExitCode> {
    let mut args = std::env::args_os();
    match args.next()?.to_str()? {
        SUPERVISOR => {
            crate::init_logging(false);
            Some(supervise(args).unwrap_or(ExitCode::from(125)))
        }
        share::PROGRAM => Some(share::main(args)),
        stand_in::PROGRAM => Some(stand_in::main(args.next()?.to_str()?)),
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

fn descriptor(args: &mut ArgsOs) -> Option<OwnedFd> {
    bulkhead_sys::inherited(args.next()?.to_str()?.parse().ok()?)
}

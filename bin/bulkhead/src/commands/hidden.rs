//! What the program is under names nobody types. The arguments are numbers
//! of inherited descriptors and paths of our own making.

use std::os::fd::RawFd;
use std::process::ExitCode;

use crate::supervisor::{self, Inheritance};

/// First argument of a supervisor.
pub(crate) const SUPERVISOR: &str = "bulkhead-supervisor";

/// Becomes a supervisor when that is what was executed.
pub(crate) fn dispatch() -> Option<ExitCode> {
    let mut args = std::env::args_os();
    let name = args.next()?;
    if name.to_str()? != SUPERVISOR {
        return None;
    }
    crate::init_logging(false);
    let mut text = || args.next();
    let inheritance = (|| {
        let root = text()?.into();
        let dir = text()?.into();
        let lock = bulkhead_sys::inherited(number(&text()?)?)?;
        let creator = bulkhead_sys::inherited(number(&text()?)?)?;
        Some(Inheritance {
            root,
            dir,
            lock,
            creator,
        })
    })();
    Some(match inheritance {
        Some(inheritance) => supervisor::main(inheritance),
        None => ExitCode::from(125),
    })
}

fn number(text: &std::ffi::OsStr) -> Option<RawFd> {
    text.to_str()?.parse().ok()
}

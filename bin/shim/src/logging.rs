//! The shim's log: to standard error, which containerd connects to its own; but
//! not that of `start`, which it reads as part of the answer.

use std::sync::{Mutex, OnceLock};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::args::{Action, Args};
use crate::begin;

/// What containerd says when it wants more.
const DEBUG: &str = "debug";

/// Changes how much is written.
type Change = Box<dyn Fn(&str) + Send + Sync>;

static CHANGE: OnceLock<Change> = OnceLock::new();

/// Begins to write.
pub(crate) fn init(args: &Args) {
    let level = if args.debug { DEBUG } else { "info" };
    let writer = match args.action {
        Action::Start => begin::log().map_or_else(
            || BoxMakeWriter::new(std::io::sink),
            |log| BoxMakeWriter::new(Mutex::new(log)),
        ),
        _ => BoxMakeWriter::new(std::io::stderr),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
        .with_writer(writer)
        .with_ansi(false)
        .with_target(false)
        .with_filter_reloading();
    // Whoever asks containerd for more has it.
    if !args.debug {
        let handle = log.reload_handle();
        let _ = CHANGE.set(Box::new(move |level| {
            let _ = handle.reload(EnvFilter::new(level));
        }));
    }
    log.init();
}

/// Writes as much as the pod's configuration says, from now on.
pub(crate) fn level(level: &str) {
    if let Some(change) = CHANGE.get() {
        change(level);
    }
}

//! Emulation, said aloud.

use bulkhead_provision::monitor;

use crate::report::CommandError;
use crate::state::Record;

/// Emulation is never silent: it is slow, and no boundary to rely on.
pub(crate) fn warn_if_emulated(record: &Record) -> Result<(), CommandError> {
    if record.accel == "tcg" {
        return Ok(());
    }
    if let Some(reason) = monitor::emulated(&monitor::probe(&record.accel)?) {
        eprintln!(
            "{} this host has no usable KVM, so the guest is emulated: many times slower, and \
             no security boundary\n  {reason}\n  (say --accel tcg to leave this out)",
            crate::style::warning("warning:")
        );
    }
    Ok(())
}

//! The end of a start, for the process that led it.

use std::time::Duration;

/// By then a short command has ended, which should not pay for code that is
/// mapped again, and a long one has come to rest.
const SETTLED: Duration = Duration::from_secs(1);

/// Gives back, soon, the memory only the start needed ([`bulkhead_sys::shed`]).
/// For a process of one tokio runtime that outlives what it started.
pub fn soon() {
    tokio::spawn(async {
        tokio::time::sleep(SETTLED).await;
        bulkhead_sys::shed();
    });
}

//! Descriptors handed over at exec.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

/// Numbers taken already: each has one owner.
static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Takes ownership of a descriptor this process was started with, by its
/// number, and sets close-on-exec. `None` for the three standard ones, for a
/// number that is not open, and for one that was taken before.
///
/// Call it before anything else opens files: a number that is open then is an
/// inherited one.
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    let mut taken = TAKEN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if number < 3 || taken.contains(&number) {
        return None;
    }
    // SAFETY: F_SETFD takes integers; on a closed number it only fails.
    let result = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    if result == -1 {
        return None;
    }
    taken.push(number);
    // SAFETY: the number is open, and the list above makes this its only
    // owner: by this function's contract nothing else opened it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

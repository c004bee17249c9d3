//! Waiting for what nobody tells of.

use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until something is so, and says what is not.
pub fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(LOOK);
    }
}

/// Waits until nothing is left, and says what is.
pub fn nothing_is_left(limit: Duration, left: impl Fn() -> Vec<String>) {
    let deadline = Instant::now() + limit;
    loop {
        let left = left();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "still there: {left:?}");
        std::thread::sleep(LOOK);
    }
}

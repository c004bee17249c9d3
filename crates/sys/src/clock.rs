//! The processor's time stamp counter.

use std::time::{Duration, Instant};

/// Rate of the time stamp counter in kHz, measured over `span` against
/// `CLOCK_MONOTONIC`. A span of 5 ms is good to a few parts per million.
/// `None` where the counter does not run evenly forward.
pub fn tsc_khz(span: Duration) -> Option<u64> {
    let start = Instant::now();
    let first = read_tsc();
    while start.elapsed() < span {
        std::hint::spin_loop();
    }
    let last = read_tsc();
    let elapsed = u64::try_from(start.elapsed().as_nanos()).ok()?;
    let ticks = last.checked_sub(first)?;
    let khz = u128::from(ticks) * 1_000_000 / u128::from(elapsed.max(1));
    u64::try_from(khz)
        .ok()
        .filter(|khz| (100_000..100_000_000).contains(khz))
}

fn read_tsc() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 processor, reads no memory, and
    // Linux leaves it enabled for user space unless a process disabled it for
    // itself by PR_SET_TSC, which nothing here does.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let one = tsc_khz(Duration::from_millis(20)).unwrap();
        let two = tsc_khz(Duration::from_millis(20)).unwrap();
        assert!(
            one.abs_diff(two) * 100 < one,
            "{one} and {two} kHz differ by over 1 %"
        );
    }
}

//! The few notations of sizes and times the API accepts. The schema holds the
//! patterns; these read what passed it, and refuse the rest.

use std::time::Duration;

/// `90s`, `10m`, `2h`.
pub(crate) const DURATION_PATTERN: &str = "^[1-9][0-9]{0,4}(s|m|h)$";
/// `512Mi`, `4Gi`.
pub(crate) const MEMORY_PATTERN: &str = "^[1-9][0-9]{0,5}(Mi|Gi)$";
/// `2`, `250m`.
pub(crate) const CPU_PATTERN: &str = "^[1-9][0-9]{0,4}m?$";

/// Digits before a suffix: not empty, not too many, no sign.
fn number(digits: &str) -> Option<u64> {
    let fits = (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    fits.then(|| digits.parse().ok()).flatten()
}

/// Reads `90s`, `10m` or `2h`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (unit, seconds) = [("s", 1), ("m", 60), ("h", 3600)]
        .into_iter()
        .find(|(unit, _)| text.ends_with(unit))?;
    let count = number(text.strip_suffix(unit)?)?;
    Some(Duration::from_secs(count * seconds))
}

/// Reads `512Mi` or `4Gi`; the result is in MiB.
#[must_use]
pub fn parse_memory(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_suffix("Mi") {
        return number(digits);
    }
    number(text.strip_suffix("Gi")?).map(|gib| gib * 1024)
}

/// Reads `2` or `250m`; the result is in thousandths of a CPU.
#[must_use]
pub fn millicores(text: &str) -> Option<u64> {
    match text.strip_suffix('m') {
        Some(digits) => number(digits),
        None => number(text).map(|cores| cores * 1000),
    }
}

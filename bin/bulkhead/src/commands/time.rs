//! Times as people and logs write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// RFC 3339 in UTC, nanoseconds.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_nanos(time).to_string()
}

/// RFC 3339 of milliseconds since the epoch; empty for 0.
pub(crate) fn rfc3339_millis(millis: u64) -> String {
    if millis == 0 {
        return String::new();
    }
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
}

/// A point in time: RFC 3339, seconds since the epoch, or a span before now
/// ("10m").
pub(crate) fn parse_since(text: &str) -> Result<SystemTime, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(UNIX_EPOCH + Duration::from_secs(seconds));
    }
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(time);
    }
    let span = humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is no time; write `10m` or `2026-01-31T12:00:00Z`"))?;
    SystemTime::now()
        .checked_sub(span)
        .ok_or_else(|| format!("`{text}` is too long ago"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_three_forms() {
        assert_eq!(parse_since("60"), Ok(UNIX_EPOCH + Duration::from_secs(60)));
        assert_eq!(
            parse_since("1970-01-01T00:01:00Z"),
            Ok(UNIX_EPOCH + Duration::from_secs(60))
        );
        assert!(parse_since("10m").unwrap() < SystemTime::now());
        assert!(parse_since("yesterday").is_err());
    }
}

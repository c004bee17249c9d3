//! Signals by name and number. signal(7).

use crate::report::CommandError;

const NAMES: [(&str, u32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// First and last real-time signal as the C library counts them.
const REAL_TIME: (u32, u32) = (34, 64);

/// "TERM", "SIGTERM", "15", "RTMIN+3".
pub(super) fn parse(text: &str) -> Result<u32, CommandError> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = match name.parse::<u32>() {
        Ok(number) => Some(number),
        Err(_) => NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, number)| *number)
            .or_else(|| real_time(name)),
    };
    number
        .filter(|number| (1..=REAL_TIME.1).contains(number))
        .ok_or_else(|| {
            CommandError::new(format!(
                "`{text}` is no signal; write for example TERM or 15"
            ))
        })
}

fn real_time(name: &str) -> Option<u32> {
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let offset = if rest.is_empty() {
            0
        } else {
            rest.strip_prefix('+')?.parse().ok()?
        };
        return REAL_TIME.0.checked_add(offset);
    }
    let rest = name.strip_prefix("RTMAX")?;
    let offset: u32 = if rest.is_empty() {
        0
    } else {
        rest.strip_prefix('-')?.parse().ok()?
    };
    REAL_TIME
        .1
        .checked_sub(offset)
        .filter(|number| *number >= REAL_TIME.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (text, number) in [
            ("TERM", 15),
            ("sigkill", 9),
            ("1", 1),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(parse(text).ok(), Some(number), "{text}");
        }
        for text in ["", "0", "65", "NOPE", "RTMIN+99", "-9"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

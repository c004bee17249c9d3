//! Ids and names of containers.

use std::fmt::Write;

/// Length of an id, hexadecimal digits, as Podman's.
pub(crate) const LENGTH: usize = 64;

/// Digits shown to people.
pub(crate) const SHORT: usize = 12;

/// A new random id.
pub(crate) fn random() -> std::io::Result<String> {
    let mut bytes = [0u8; LENGTH / 2];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// The first digits of an id.
pub(crate) fn short(id: &str) -> &str {
    &id[..id.len().min(SHORT)]
}

const ADJECTIVES: [&str; 32] = [
    "able", "ample", "azure", "brave", "brisk", "calm", "candid", "clear", "crisp", "deep",
    "eager", "fair", "firm", "fleet", "fond", "frank", "grand", "hardy", "keen", "level", "lively",
    "lucid", "mellow", "neat", "noble", "proud", "quiet", "ready", "sound", "steady", "swift",
    "trim",
];
const NOUNS: [&str; 32] = [
    "anchor", "beacon", "bosun", "brig", "buoy", "clipper", "compass", "cutter", "davit", "dinghy",
    "ferry", "fjord", "galley", "harbour", "hull", "jetty", "keel", "ketch", "lagoon", "mast",
    "mooring", "oar", "pilot", "quay", "rudder", "sail", "schooner", "sextant", "sloop", "spar",
    "tide", "wharf",
];

/// A name for a container that got none: words chosen by the id's digits.
pub(crate) fn friendly(id: &str) -> String {
    let digits = |at: usize, len: usize| {
        id.get(at..at + len)
            .and_then(|hex| u32::from_str_radix(hex, 16).ok())
            .unwrap_or(0) as usize
    };
    format!(
        "{}-{}-{}",
        ADJECTIVES[digits(0, 2) % ADJECTIVES.len()],
        NOUNS[digits(2, 2) % NOUNS.len()],
        id.get(4..8).unwrap_or("0"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_names_are_allowed() {
        let (one, two) = (random().unwrap(), random().unwrap());
        assert_eq!(one.len(), LENGTH);
        assert_ne!(one, two);
        bulkhead_protocol::name::check(&friendly(&one)).unwrap();
    }
}

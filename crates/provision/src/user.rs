//! Whom monitors run as.

/// First of the users monitors run as: far above any account, one for each
/// sandbox, so that one that broke out of its guest owns nothing of another.
const FIRST: u32 = 0x7000_0000;

/// The user and group of the monitor of sandbox `id`, of whose first six
/// characters, hexadecimal digits, it is made. None without root, and for an
/// id of another form.
pub fn of(id: &str) -> Option<(u32, u32)> {
    let own = id
        .get(..6)
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())?;
    rustix::process::geteuid()
        .is_root()
        .then_some((FIRST + own, FIRST + own))
}

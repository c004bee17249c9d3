//! Names that cross the boundary between host and guest.

/// Longest container or exec name, bytes.
pub const NAME_LIMIT: usize = 128;

/// Why a name is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// Nothing, or more than [`NAME_LIMIT`] bytes.
    #[error("the name `{0}` has to be between 1 and {NAME_LIMIT} characters long")]
    Length(String),
    /// A character outside the allowed set, or a first one that is no letter
    /// or digit.
    #[error(
        "the name `{0}` may hold only letters, digits, `_`, `.` and `-`, \
         and has to start with a letter or digit"
    )]
    Characters(String),
}

/// Checks a container, exec or sandbox name: `[A-Za-z0-9][A-Za-z0-9_.-]*`,
/// the rule containerd and Podman share. Such a name is safe as one path
/// component.
///
/// # Errors
/// [`NameError`] when the name breaks the rule.
pub fn check(name: &str) -> Result<(), NameError> {
    if name.is_empty() || name.len() > NAME_LIMIT {
        return Err(NameError::Length(name.chars().take(NAME_LIMIT).collect()));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let first = name
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphanumeric());
    if first && name.chars().all(allowed) {
        Ok(())
    } else {
        Err(NameError::Characters(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_pass() {
        for name in ["a", "web-1", "0ab.c_d", &"x".repeat(NAME_LIMIT)] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "-rf",
            "a\0",
            "ä",
            &"x".repeat(NAME_LIMIT + 1),
        ] {
            assert!(check(name).is_err(), "{name}");
        }
    }
}

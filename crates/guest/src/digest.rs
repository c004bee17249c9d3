//! SHA-256 of files and of named inputs.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// A SHA-256 digest, written as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The digest of all that is left to read from `file`.
    ///
    /// # Errors
    /// What reading answers.
    pub fn of_file(file: &mut File) -> io::Result<Self> {
        let mut hash = sha2::Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Self(hash.finalize().into())),
                n => hash.update(&buffer[..n]),
            }
        }
    }

    /// The digest of a list of named inputs. Lengths are hashed too, so that no two different
    /// lists run together into the same bytes.
    #[must_use]
    pub(crate) fn of_inputs(inputs: &[(&str, &[u8])]) -> Self {
        let mut hash = sha2::Sha256::new();
        for (name, value) in inputs {
            for part in [name.as_bytes(), value] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        Self(hash.finalize().into())
    }

    /// The first 16 digits: enough for a directory's name.
    #[must_use]
    pub(crate) fn short(&self) -> String {
        hex::encode(&self.0[..8])
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl From<Sha256> for String {
    fn from(digest: Sha256) -> String {
        digest.to_string()
    }
}

impl TryFrom<String> for Sha256 {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| "not a SHA-256 digest")?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        let expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Sha256::of(b"").to_string(), expected);
    }

    #[test]
    fn moving_a_byte_between_inputs_changes_the_digest() {
        let left = Sha256::of_inputs(&[("a", b"bc"), ("d", b"")]);
        let right = Sha256::of_inputs(&[("a", b"b"), ("d", b"c")]);
        assert_ne!(left, right);
    }

    #[test]
    fn text_that_is_no_digest_is_refused() {
        assert!(Sha256::try_from("e3b0".to_owned()).is_err());
        assert!(Sha256::try_from("g".repeat(64)).is_err());
    }
}

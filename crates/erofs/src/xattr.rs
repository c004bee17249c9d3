//! Inline extended attributes: `erofs_xattr_ibody_header` and its entries.

use crate::format::put;
use crate::{Error, Result, Xattrs};

const HEADER_LEN: usize = 12;
const ENTRY_LEN: usize = 4;
/// `i_xattr_icount` counts 4-byte units in 16 bits, the header as one.
const BODY_MAX: usize = HEADER_LEN + 4 * (u16::MAX as usize - 1);

/// `EROFS_XATTR_INDEX_*` and the prefix each stands for.
const PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// Splits a full name into prefix index and the rest.
fn split(name: &[u8]) -> Result<(u8, &[u8])> {
    PREFIXES
        .iter()
        .find_map(|(index, prefix)| {
            let rest = name.strip_prefix(*prefix)?;
            // An ACL's name is its prefix; every other name has something behind it.
            let whole = !prefix.ends_with(b".");
            (rest.is_empty() == whole && rest.len() <= 255 && !rest.contains(&0))
                .then_some((*index, rest))
        })
        .ok_or_else(|| Error::XattrName(String::from_utf8_lossy(name).into_owned()))
}

/// Bytes the attributes take behind an inode, or why they cannot be stored.
pub(crate) fn body_len(xattrs: &Xattrs) -> Result<usize> {
    if xattrs.is_empty() {
        return Ok(0);
    }
    let mut len = HEADER_LEN;
    for (name, value) in xattrs {
        let (_, rest) = split(name)?;
        if value.len() > usize::from(u16::MAX) {
            return Err(Error::XattrSize(value.len()));
        }
        len += (ENTRY_LEN + rest.len() + value.len()).next_multiple_of(4);
    }
    if len > BODY_MAX {
        Err(Error::XattrSize(len))
    } else {
        Ok(len)
    }
}

/// `i_xattr_icount` for a body of `len` bytes.
pub(crate) fn icount(len: usize) -> u16 {
    if len == 0 {
        0
    } else {
        ((len - HEADER_LEN) / 4 + 1) as u16
    }
}

/// Encodes what [`body_len`] measured.
pub(crate) fn encode(xattrs: &Xattrs, out: &mut Vec<u8>) -> Result<()> {
    if xattrs.is_empty() {
        return Ok(());
    }
    let start = out.len();
    out.resize(start + HEADER_LEN, 0);
    for (name, value) in xattrs {
        let (index, rest) = split(name)?;
        let at = out.len();
        out.resize(at + ENTRY_LEN, 0);
        out[at] = rest.len() as u8;
        out[at + 1] = index;
        put(out, at + 2, &(value.len() as u16).to_le_bytes());
        out.extend_from_slice(rest);
        out.extend_from_slice(value);
        out.resize(start + (out.len() - start).next_multiple_of(4), 0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(name: &str, value: &[u8]) -> Xattrs {
        Xattrs::from([(name.as_bytes().into(), value.into())])
    }

    #[test]
    fn an_attribute_of_an_unknown_family_is_refused_by_name() {
        let error = body_len(&one("system.nfs4_acl", b"x")).unwrap_err();
        assert!(error.to_string().contains("system.nfs4_acl"), "{error}");
        assert!(body_len(&one("user.", b"")).is_err());
        assert!(body_len(&one("system.posix_acl_access2", b"")).is_err());
    }

    #[test]
    fn a_value_beyond_64_kib_is_refused() {
        assert!(body_len(&one("user.x", &vec![0; 65536])).is_err());
        assert!(body_len(&one("user.x", &vec![0; 65535])).is_ok());
    }

    proptest! {
        #[test]
        fn a_body_is_as_long_as_measured(
            raw in prop::collection::btree_map("user\\.[a-z.]{1,40}", prop::collection::vec(any::<u8>(), 0..200), 0..8)
        ) {
            let xattrs: Xattrs = raw.into_iter().map(|(name, value)| (name.into_bytes().into(), value.into())).collect();
            let mut body = Vec::new();
            encode(&xattrs, &mut body).unwrap();
            prop_assert_eq!(body.len(), body_len(&xattrs).unwrap());
            prop_assert_eq!(body.len() % 4, 0);
        }
    }
}

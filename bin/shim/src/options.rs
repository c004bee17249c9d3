//! What containerd's configuration says of this runtime.

use protobuf::CodedInputStream;

/// `config_path` of containerd's `runtimeoptions.v1.Options` (field 2), the
/// message it sends for a runtime it does not know. Another message has none.
pub(crate) fn path_in_options(type_url: &str, bytes: &[u8]) -> Option<String> {
    if !type_url.ends_with("runtimeoptions.v1.Options") {
        return None;
    }
    const LENGTH_DELIMITED: u32 = 2;
    let mut stream = CodedInputStream::from_bytes(bytes);
    while let Ok(Some(tag)) = stream.read_raw_tag_or_eof() {
        if tag & 7 != LENGTH_DELIMITED {
            return None;
        }
        let text = stream.read_bytes().ok()?;
        if tag >> 3 == 2 {
            return String::from_utf8(text).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_options_path_is_found() {
        let bytes = b"\x0a\x03abc\x12\x04/etc";
        let url = "runtimeoptions.v1.Options";
        assert_eq!(path_in_options(url, bytes).as_deref(), Some("/etc"));
        assert_eq!(path_in_options("containerd.runc.v1.Options", bytes), None);
    }

    proptest! {
        #[test]
        fn no_options_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = path_in_options("runtimeoptions.v1.Options", &bytes);
        }
    }
}

//! Kernel configuration: fragments asked for, and what the kernel's own build made of them.
//!
//! `make allnoconfig` silently drops an option whose parents are off or whose name is gone;
//! [`lost`] finds them. The format is that of the kernel's Documentation/kbuild/kconfig.rst.

use std::collections::BTreeMap;

use crate::{Error, Result};

/// Includes one fragment by name.
macro_rules! fragment {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../../guest/kernel/", $name)),
        )
    };
}

/// The fragments every tuned kernel is built from, in order, by file name.
pub const FRAGMENTS: &[(&str, &str)] = &[
    fragment!("10-base.config"),
    fragment!("20-virtual-machine.config"),
    fragment!("30-filesystems.config"),
    fragment!("40-containers.config"),
    fragment!("50-network.config"),
    fragment!("60-tracing.config"),
    fragment!("70-hardening.config"),
    fragment!("80-absent.config"),
];

/// Options by name without `CONFIG_`, values as written: `y`, `n`, a number or a quoted string.
pub type Options = BTreeMap<String, String>;

/// Reads options from `text`: lines `CONFIG_NAME=value` and `# CONFIG_NAME is not set`; other
/// comments and empty lines are skipped. A later line wins.
///
/// # Errors
/// [`Error::Fragment`] for any other line.
pub fn parse(text: &str) -> Result<Options> {
    let mut options = Options::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if let Some(name) = unset(line) {
            options.insert(name.to_owned(), "n".to_owned());
        } else if line.is_empty() || line.starts_with('#') {
            continue;
        } else if let Some((name, value)) = assignment(line) {
            options.insert(name.to_owned(), value.to_owned());
        } else {
            let text = line.chars().take(80).collect();
            return Err(Error::Fragment {
                line: index + 1,
                text,
            });
        }
    }
    Ok(options)
}

fn unset(line: &str) -> Option<&str> {
    let name = line
        .strip_prefix("# CONFIG_")?
        .strip_suffix(" is not set")?;
    is_name(name).then_some(name)
}

fn assignment(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
    (is_name(name) && !value.is_empty()).then_some((name, value))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Each option of `asked` that `made` does not have with that value, as a sentence part. An
/// option that is absent counts as `n`.
#[must_use]
pub fn lost(asked: &Options, made: &Options) -> Vec<String> {
    asked
        .iter()
        .filter_map(|(name, want)| {
            let got = made.get(name).map_or("n", String::as_str);
            (got != want).then(|| format!("`CONFIG_{name}={want}` (got `{got}`)"))
        })
        .collect()
}

/// Writes `options` one a line, sorted: the form handed to the kernel's build, and the one whose
/// digest the manifest carries. Comments and order of the fragments do not matter to it.
#[must_use]
pub fn render(options: &Options) -> String {
    options
        .iter()
        .map(|(name, value)| format!("CONFIG_{name}={value}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_shipped_fragment_parses_and_none_contradicts_another() {
        let mut all = Options::new();
        for (file, text) in FRAGMENTS {
            for (name, value) in parse(text).unwrap_or_else(|e| panic!("{file}: {e}")) {
                let before = all.insert(name.clone(), value);
                assert_eq!(
                    before, None,
                    "CONFIG_{name} is in {file} and in an earlier fragment"
                );
            }
        }
        assert!(all.len() > 250, "only {} options", all.len());
    }

    #[test]
    fn an_option_whose_parent_is_missing_is_named() {
        let asked = parse("CONFIG_SMP=y\nCONFIG_NFT_CT=y\nCONFIG_NUMA=n\n").unwrap();
        let made = parse("CONFIG_SMP=y\n# CONFIG_NUMA is not set\n").unwrap();
        assert_eq!(lost(&asked, &made), ["`CONFIG_NFT_CT=y` (got `n`)"]);
    }

    #[test]
    fn an_option_forced_on_by_another_is_named() {
        let asked = parse("CONFIG_MODULES=n").unwrap();
        let made = parse("CONFIG_MODULES=y").unwrap();
        assert_eq!(lost(&asked, &made), ["`CONFIG_MODULES=n` (got `y`)"]);
    }

    #[test]
    fn a_line_that_is_no_option_is_an_error_with_its_number() {
        let error = parse("CONFIG_SMP=y\nSMP=y\n").unwrap_err();
        assert!(error.to_string().starts_with("line 2 "), "{error}");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,400}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_rendered_parses_back(options in prop::collection::btree_map(
            "[A-Z0-9_]{1,20}", "(y|n|[0-9]{1,6}|\"[a-z ]{0,9}\")", 0..40)) {
            prop_assert_eq!(parse(&render(&options)).unwrap(), options);
        }
    }
}

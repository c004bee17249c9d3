//! Our lines at the end of somebody else's file.
//!
//! They stand between two marks. Everything outside is kept byte for byte,
//! and taking the block out gives exactly the file that was there before.

use std::ops::Range;

/// Begins the first line of a block.
const BEGIN: &str = "# BEGIN bulkhead";

/// Behind [`BEGIN`] when the text before the block does not end with a line
/// break of its own: the one there is ours.
const JOINED: &str = " (the line break before this line is part of the block)";

/// The rest of the first line, for people.
const NOTE: &str = ": written by `bulkhead node install`, removed by `bulkhead node uninstall`";

/// The last line.
const END: &str = "# END bulkhead";

/// A block that lacks an end, or that is there twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("has a `{BEGIN}` line without its `{END}` line, or two of them; remove those lines")]
pub struct BrokenBlock;

/// The file with `lines` as its block, in place of one that is there.
///
/// # Errors
/// [`BrokenBlock`].
pub fn with(text: &str, lines: &str) -> Result<String, BrokenBlock> {
    let rest = without(text)?;
    let joined = !rest.is_empty() && !rest.ends_with('\n');
    let (line_break, mark) = if joined { ("\n", JOINED) } else { ("", "") };
    Ok(format!(
        "{rest}{line_break}{BEGIN}{mark}{NOTE}\n{lines}{END}\n"
    ))
}

/// The file without a block.
///
/// # Errors
/// [`BrokenBlock`].
pub fn without(text: &str) -> Result<String, BrokenBlock> {
    Ok(match find(text)? {
        None => text.to_owned(),
        Some(range) => {
            let (head, tail) = (&text[..range.start], &text[range.end..]);
            // What was written behind the block stays on lines of its own.
            let joined = text[range.start..].starts_with('\n') && !tail.is_empty();
            format!("{head}{}{tail}", if joined { "\n" } else { "" })
        }
    })
}

/// The whole block, when there is one.
///
/// # Errors
/// [`BrokenBlock`].
pub fn of(text: &str) -> Result<Option<&str>, BrokenBlock> {
    Ok(find(text)?.map(|range| &text[range]))
}

/// `now` with the block of `old` in place of its own; `None` when it has
/// none, so that the two are no versions of one file.
pub(crate) fn swap(now: &str, old: &str) -> Option<String> {
    of(now).ok()??;
    let lines = of(old).ok()?.map(|whole| {
        let inner = whole.trim_start_matches('\n').split_inclusive('\n');
        let inner: Vec<&str> = inner.skip(1).collect();
        inner[..inner.len() - 1].concat()
    });
    match lines {
        Some(lines) => with(now, &lines).ok(),
        None => without(now).ok(),
    }
}

fn find(text: &str) -> Result<Option<Range<usize>>, BrokenBlock> {
    let mut begins = None;
    let mut ends = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let after = at + line.len();
        if let Some(rest) = line.strip_prefix(BEGIN) {
            let joined = rest.starts_with(JOINED) && at > 0;
            if begins.replace(at - usize::from(joined)).is_some() {
                return Err(BrokenBlock);
            }
        } else if line.trim_end() == END && ends.replace(after).is_some() {
            return Err(BrokenBlock);
        }
        at = after;
    }
    match (begins, ends) {
        (None, None) => Ok(None),
        (Some(begin), Some(end)) if begin < end => Ok(Some(begin..end)),
        _ => Err(BrokenBlock),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINES: &str = "[a]\nb = 1\n";

    #[test]
    fn what_stands_around_the_block_stays_when_it_changes() {
        let text = with("# mine\nx = 1", LINES).unwrap();
        let text = format!("{text}[after]\n");
        let text = with(&text, "[c]\n").unwrap();
        assert!(!text.contains("[a]") && text.contains("[c]"));
        assert_eq!(without(&text).unwrap(), "# mine\nx = 1\n[after]\n");
    }

    #[test]
    fn an_older_block_goes_into_a_newer_file() {
        let old = with("a\n", LINES).unwrap();
        let now = with("a\nb\n", "[other]\n").unwrap();
        assert_eq!(swap(&now, &old).unwrap(), with("a\nb\n", LINES).unwrap());
        assert_eq!(swap(&now, "a\n").unwrap(), "a\nb\n");
        assert_eq!(swap("a\n", &old), None);
    }

    #[test]
    fn half_a_block_is_not_guessed_at() {
        let whole = with("", LINES).unwrap();
        let half = whole.replace(END, "");
        assert_eq!(without(&half), Err(BrokenBlock));
        assert_eq!(without(&format!("{whole}{whole}")), Err(BrokenBlock));
        assert_eq!(without(END), Err(BrokenBlock));
    }

    proptest! {
        #[test]
        fn taking_it_out_gives_the_file_that_was(text in "([a-z#\\[\\] =]{0,9}\r?\n?){0,9}") {
            let changed = with(&text, LINES).unwrap();
            prop_assert_eq!(&without(&changed).unwrap(), &text);
            prop_assert!(of(&changed).unwrap().unwrap().contains(LINES));
            prop_assert_eq!(with(&changed, LINES).unwrap(), changed);
        }

        #[test]
        fn no_text_panics(text in "(# BEGIN bulkhead|# END bulkhead|ä|\n|x){0,12}") {
            let _ = with(&text, LINES);
        }
    }
}

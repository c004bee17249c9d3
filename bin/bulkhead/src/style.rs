//! Colours, on a terminal only, and tables.

use std::io::IsTerminal;

fn paint(code: &str, text: &str, to_terminal: bool) -> String {
    let plain = !to_terminal || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain {
        text.to_owned()
    } else {
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// For standard error.
pub(crate) fn error(text: &str) -> String {
    paint("1;31", text, std::io::stderr().is_terminal())
}

/// For standard error.
pub(crate) fn warning(text: &str) -> String {
    paint("1;33", text, std::io::stderr().is_terminal())
}

/// For standard output.
pub(crate) fn good(text: &str) -> String {
    paint("32", text, std::io::stdout().is_terminal())
}

/// For standard output.
pub(crate) fn bad(text: &str) -> String {
    paint("31", text, std::io::stdout().is_terminal())
}

/// Rows in columns, two spaces apart, nothing behind the last.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Bytes with a binary unit, "12.3MiB".
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let digits = if unit == "B" { 0 } else { 1 };
            return format!("{value:.digits$}{unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1}TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_trailing_blanks() {
        let rows = [
            vec!["A".into(), "LONG".into()],
            vec!["abc".into(), "d".into()],
        ];
        assert_eq!(table(&rows), "A    LONG\nabc  d\n");
    }

    #[test]
    fn bytes_are_rounded() {
        assert_eq!(bytes(512), "512B");
        assert_eq!(bytes(1536), "1.5KiB");
        assert_eq!(bytes(3 << 30), "3.0GiB");
    }
}

//! The guest console's last lines, kept for error messages.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Lines kept; older ones are forgotten.
pub const LINES_KEPT: usize = 200;

/// Longest line kept, bytes; the rest of a longer one is dropped.
pub const LINE_LIMIT: usize = 512;

/// A bounded ring of console lines, shared between the reader that fills it
/// and whoever quotes it. Control characters are dropped: the lines come from
/// the guest and end up on people's terminals.
#[derive(Debug, Clone, Default)]
pub struct Console {
    // A std Mutex: held for a few copies only, never across an await.
    inner: Arc<Mutex<Ring>>,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<String>,
    partial: Vec<u8>,
}

impl Console {
    /// Adds bytes as they come off the console.
    pub fn push(&self, bytes: &[u8]) {
        let mut ring = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for &byte in bytes {
            match byte {
                b'\n' => ring.end_line(),
                0x20..=0x7e | b'\t' if ring.partial.len() < LINE_LIMIT => ring.partial.push(byte),
                _ => {}
            }
        }
    }

    /// The last `count` lines, oldest first, an unfinished one included.
    pub fn last(&self, count: usize) -> Vec<String> {
        let ring = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines: Vec<String> = ring.lines.iter().cloned().collect();
        if !ring.partial.is_empty() {
            lines.push(String::from_utf8_lossy(&ring.partial).into_owned());
        }
        lines.split_off(lines.len().saturating_sub(count))
    }
}

impl Ring {
    fn end_line(&mut self) {
        if self.partial.is_empty() {
            return;
        }
        if self.lines.len() == LINES_KEPT {
            self.lines.pop_front();
        }
        let line = std::mem::take(&mut self.partial);
        self.lines
            .push_back(String::from_utf8_lossy(&line).into_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_lines_and_the_unfinished_one() {
        let console = Console::default();
        for number in 0..LINES_KEPT + 5 {
            console.push(format!("line {number}\r\n").as_bytes());
        }
        console.push(b"no newline yet");
        let last = console.last(2);
        assert_eq!(
            last,
            [
                format!("line {}", LINES_KEPT + 4),
                "no newline yet".to_owned()
            ]
        );
        assert_eq!(console.last(10_000).len(), LINES_KEPT + 1);
    }

    #[test]
    fn a_hostile_console_can_neither_grow_nor_steer_a_terminal() {
        let console = Console::default();
        console.push(&vec![b'A'; 10_000_000]);
        console.push(b"\x1b]0;pwned\x07\n");
        let line = console.last(1).remove(0);
        assert_eq!(line.len(), LINE_LIMIT);
        assert!(!line.contains('\x1b'));
    }
}

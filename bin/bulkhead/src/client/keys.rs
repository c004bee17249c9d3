//! The keys that leave a terminal: ctrl-p ctrl-q, as Podman's.

const CTRL_P: u8 = 0x10;
const CTRL_Q: u8 = 0x11;

/// Watches what is typed.
#[derive(Debug, Default)]
pub(super) struct Keys {
    held: bool,
}

impl Keys {
    /// Gives the bytes to pass on, and whether the user wants to leave. A
    /// lone ctrl-p is held back until the next key.
    pub(super) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(typed.len() + 1);
        for &byte in typed {
            if std::mem::take(&mut self.held) {
                if byte == CTRL_Q {
                    return (out, true);
                }
                out.push(CTRL_P);
            }
            if byte == CTRL_P {
                self.held = true;
            } else {
                out.push(byte);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_leaves_and_nothing_else_does() {
        let mut keys = Keys::default();
        assert_eq!(keys.filter(b"ls\n"), (b"ls\n".to_vec(), false));
        assert_eq!(keys.filter(&[CTRL_P]), (vec![], false));
        assert_eq!(keys.filter(b"x"), (vec![CTRL_P, b'x'], false));
        assert_eq!(keys.filter(&[CTRL_P, CTRL_P, CTRL_Q]), (vec![CTRL_P], true));
    }
}

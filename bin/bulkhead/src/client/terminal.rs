//! The user's terminal: raw mode, size, signals.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

use super::Wanted;
use bulkhead_control::Call;
use bulkhead_control::{Request, Socket};

/// How the terminal was; also for the paths that leave without unwinding.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Rows and columns of the terminal on standard input or output.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdin())
        .or_else(|_| tcgetwinsize(std::io::stdout()))
        .ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Raw mode while it lives.
pub(crate) struct Raw;

impl Raw {
    /// Enters raw mode when standard input is a terminal.
    pub(crate) fn enter() -> std::io::Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let old = tcgetattr(&stdin)?;
        let mut raw = old.clone();
        raw.make_raw();
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(old);
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(Self))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was.
pub(super) fn restore() {
    if let Some(old) = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &old);
    }
}

/// Passes signals and size changes on, in a thread of its own.
pub(super) fn forward(socket: Arc<Socket>, number: u64, wanted: Wanted) -> std::io::Result<()> {
    let mut watched = Vec::new();
    if wanted.proxy_signals {
        watched.extend([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2]);
    }
    if wanted.terminal {
        watched.push(SIGWINCH);
    }
    let mut signals = Signals::new(watched)?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            let attached = Some(number);
            let request = match signal {
                SIGWINCH => match size() {
                    Some((rows, columns)) => Request::Resize {
                        attached,
                        rows,
                        columns,
                    },
                    None => continue,
                },
                signal => Request::Signal {
                    attached,
                    signal: signal.unsigned_abs(),
                    all: false,
                },
            };
            if socket.send(&Call { number: 0, request }, &[]).is_err() {
                return;
            }
        }
    });
    Ok(())
}

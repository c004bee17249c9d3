//! Builds a guest into the cache.

use std::io::{IsTerminal, Write};
use std::time::Instant;

use bulkhead_guest::{BuildOptions, Cache, Guest, KernelKind, Phase, Preference, Progress};

use crate::Kernel;
use crate::run::Outcome;

/// Builds the guest with the agent of this tree.
pub(crate) fn build(kernel: Kernel) -> Outcome<Guest> {
    let agent = crate::agent::build()?;
    let kind = match kernel {
        Kernel::Tuned => KernelKind::Tuned,
        Kernel::Distro => KernelKind::Distro,
    };
    let root = Cache::default_root().map_err(text)?;
    let cache = Cache::open(&root).map_err(text)?;
    let mut printer = Printer::default();
    let built = bulkhead_guest::build(&cache, &BuildOptions { kind, agent }, &mut printer);
    printer.end();
    let guest = built.map_err(text)?;
    println!(
        "guest: {} ({})",
        guest.dir().display(),
        guest.manifest.source
    );
    Ok(guest)
}

/// The tuned guest that was built last.
pub(crate) fn newest_tuned() -> Outcome<Guest> {
    let cache = Cache::default_root().and_then(|root| Cache::open(&root));
    let newest = cache.and_then(|cache| cache.find(Preference::Only(KernelKind::Tuned)));
    newest.map_err(text)
}

/// Is there a tuned kernel, whatever its agent?
pub(crate) fn has_tuned() -> bool {
    let cache = Cache::default_root().and_then(|root| Cache::open(&root));
    let guests = cache.and_then(|cache| cache.list()).unwrap_or_default();
    guests
        .iter()
        .any(|guest| guest.manifest.kind == KernelKind::Tuned)
}

#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
pub(crate) fn text(error: bulkhead_guest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    text
}

/// Shows what a build does, and how long each part took.
pub(crate) struct Printer {
    phase: Option<Phase>,
    started: Instant,
}

impl Default for Printer {
    fn default() -> Self {
        Self {
            phase: None,
            started: Instant::now(),
        }
    }
}

impl Printer {
    pub(crate) fn end(&mut self) {
        if self.phase.take().is_some() {
            println!(" {:.0} s", self.started.elapsed().as_secs_f64());
        }
    }
}

impl Progress for Printer {
    fn update(&mut self, phase: Phase, done: u64, total: u64) {
        if self.phase != Some(phase) {
            self.end();
            print!("guest: {phase}");
            (self.phase, self.started) = (Some(phase), Instant::now());
        } else if total > 0 && std::io::stdout().is_terminal() {
            print!(
                "\rguest: {phase} {:.0} %",
                done as f64 * 100.0 / total as f64
            );
        }
        let _ = std::io::stdout().flush();
    }
}

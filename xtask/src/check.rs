//! Format, lints, documentation: all failures at once.

use crate::run::{self, Outcome};

/// Runs every check and fails if one did.
pub(crate) fn run() -> Outcome {
    let checks = [
        "fmt --all --check",
        "clippy --workspace --all-targets -- -D warnings",
        // The programs' comments are help texts, in clap's form.
        "doc --workspace --no-deps --lib",
    ];
    let mut failed = Vec::new();
    for args in checks {
        let mut command = run::cargo();
        command
            .args(args.split(' '))
            .env("RUSTDOCFLAGS", "-D warnings");
        failed.extend(run::command(&mut command).err());
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("\n"))
    }
}

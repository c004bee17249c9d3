//! Format, lints, documentation: all failures at once.

use crate::run::{self, Outcome};

/// Runs every check and fails if one did.
pub(crate) fn run() -> Outcome {
    let checks: [(&[&str], &[(&str, &str)]); 3] = [
        (&["fmt", "--all", "--check"], &[]),
        (
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
            &[],
        ),
        (
            &["doc", "--workspace", "--no-deps"],
            &[("RUSTDOCFLAGS", "-D warnings")],
        ),
    ];
    let mut failed = Vec::new();
    for (args, env) in checks {
        let mut command = run::cargo();
        command.args(args).envs(env.iter().copied());
        failed.extend(run::command(&mut command).err());
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("\n"))
    }
}

//! The agent's static build.

use std::path::PathBuf;

use crate::run::{self, Outcome};

/// Largest agent, bytes: every sandbox keeps a copy in memory.
const SIZE_LIMIT: u64 = 4 << 20;

const TARGET: &str = "x86_64-unknown-linux-gnu";

const DIRECTORY: &str = "target/guest";

/// Where the built agent is.
pub(crate) fn program() -> PathBuf {
    let dir = run::workspace().join(DIRECTORY).join(TARGET);
    dir.join("agent/bulkhead-agent")
}

/// Builds the agent for the guest; gives the program.
///
/// The C library is linked in (the guest has none), by the gnu target every toolchain has. A
/// target directory of its own keeps these flags from rebuilding everything else.
pub(crate) fn build() -> Outcome<PathBuf> {
    let workspace = run::workspace();
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Crelocation-model=static".to_owned(),
        format!("--remap-path-prefix={}=.", workspace.display()),
    ];
    let mut build = run::cargo();
    build
        .args([
            "build",
            "--package",
            "bulkhead-agent",
            "--profile",
            "agent",
            "--target",
            TARGET,
        ])
        .arg("--target-dir")
        .arg(workspace.join(DIRECTORY))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env_remove("RUSTFLAGS");
    run::command(&mut build)?;
    let program = program();
    let size = program
        .metadata()
        .map_err(|e| format!("`{}`: {e}", program.display()))?
        .len();
    if size > SIZE_LIMIT {
        return Err(format!(
            "the agent has {size} bytes, more than the {SIZE_LIMIT} allowed"
        ));
    }
    println!("agent: {:.2} MiB of 4", size as f64 / f64::from(1 << 20));
    Ok(program)
}

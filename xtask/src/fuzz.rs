//! Fuzzing with libFuzzer. Coverage needs code generation options that a stable
//! compiler has; address checks, which it has not, matter little without unsafe
//! code.

use std::process::Command;

use crate::run::{self, Outcome};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// As `cargo fuzz` sets them.
const COVERAGE: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg",
    "fuzzing",
];

/// Memory of a run at most, MiB: what comes from outside must not fill it.
const MEMORY_LIMIT: u32 = 2048;

/// Fuzzes one target, or all in turn, for some seconds each. What was found
/// useful stays in `fuzz/corpus` for the next time.
pub(crate) fn run(only: Option<&str>, seconds: u32) -> Outcome {
    let workspace = run::workspace();
    let dir = workspace.join("fuzz");
    let built = workspace.join("target/fuzz");
    let mut build = run::cargo();
    build
        .current_dir(&dir)
        .args(["build", "--release", "--target", TARGET])
        .env("CARGO_TARGET_DIR", &built)
        .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\u{1f}"));
    run::command(&mut build)?;
    let text = |error: std::io::Error| error.to_string();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir.join("src/bin")).map_err(text)? {
        let path = entry.map_err(text)?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if only.is_none_or(|only| only == name) {
            names.push(name.into_owned());
        }
    }
    names.sort();
    if names.is_empty() {
        return Err(format!(
            "no target `{}`; they are in fuzz/src/bin",
            only.unwrap_or_default()
        ));
    }
    for name in names {
        println!("== {name}: {seconds} s");
        let corpus = dir.join("corpus").join(&name);
        let found = dir.join("artifacts").join(&name).join("");
        std::fs::create_dir_all(&corpus).map_err(text)?;
        std::fs::create_dir_all(&found).map_err(text)?;
        let program = built.join(TARGET).join("release").join(&name);
        let mut fuzz = Command::new(program);
        fuzz.arg(format!("-max_total_time={seconds}"))
            .arg(format!("-rss_limit_mb={MEMORY_LIMIT}"))
            .arg(format!("-artifact_prefix={}", found.display()))
            .args(["-print_final_stats=1", "-verbosity=0"])
            .arg(corpus);
        run::command(&mut fuzz)?;
    }
    Ok(())
}

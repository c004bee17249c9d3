//! Every test.

use std::time::Instant;

use crate::run::{self, Outcome};
use crate::{Kernel, guest, prerequisites};

/// Installs, builds, tests; says how long each part took.
pub(crate) fn run(yes: bool) -> Outcome {
    let mut times = Vec::new();
    let mut timed = |name: &'static str, work: &mut dyn FnMut() -> Outcome| {
        let start = Instant::now();
        let outcome = work();
        times.push((name, start.elapsed().as_secs()));
        outcome
    };
    timed("packages", &mut || prerequisites::install(yes))?;
    timed("program", &mut || {
        run::command(run::cargo().args([
            "build",
            "--package",
            "bulkhead",
            "--package",
            "bulkhead-shim",
            "--package",
            "bulkhead-operator",
            "--package",
            "bulkhead-node-agent",
        ]))
    })?;
    timed("guest", &mut || guest::build(Kernel::Tuned).map(|_| ()))?;
    timed("tests", &mut || {
        let mut test = run::cargo();
        test.args(["test", "--workspace", "--no-fail-fast"]).env(
            "BULKHEAD_TEST_PROGRAM",
            run::workspace().join("target/debug/bulkhead"),
        );
        run::command(&mut test)
    })?;
    for (name, seconds) in times {
        println!("{name:<10} {seconds:>5} s");
    }
    Ok(())
}

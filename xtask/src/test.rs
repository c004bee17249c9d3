//! Every test.

use std::time::Instant;

use crate::run::{self, Outcome};
use crate::{Kernel, demo, guest, lab, prerequisites};

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
    timed("helm", &mut || prerequisites::helm())?;
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
            "--package",
            "bulkhead-apiserver",
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
    // Emulated guests say nothing of what only KVM does.
    timed("KVM", &mut || {
        let dir = run::workspace().join("target/demo");
        let image = dir.join("image");
        if !image.exists() {
            demo::make_image(&dir, &image)?;
        }
        let program = run::workspace().join("target/debug/bulkhead");
        let script = run::workspace().join("tests/lab/kvm.sh");
        let image = format!("oci:{}:latest", image.display());
        let pods = text(&program.with_file_name("pods-bench"));
        let words = ["sh", &text(&script), &text(&program), &image, &pods].map(str::to_owned);
        let clock = lab::Options {
            instruction_clock: false,
            minutes: 15,
        };
        lab::run(yes, clock, &words)
    })?;
    for (name, seconds) in times {
        println!("{name:<10} {seconds:>5} s");
    }
    Ok(())
}

fn text(path: &std::path::Path) -> String {
    path.display().to_string()
}

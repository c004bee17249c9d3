//! Every test.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::run::{self, Outcome};
use crate::{Kernel, containerd2, demo, docker, guest, lab, prerequisites};

/// What is tried once more with containerd 2, by who runs the sandbox of a pod:
/// containerd, by a task, or the shim, by the Sandbox API. Patterns of cargo's.
const CONTAINERD2: [(&str, &[&str]); 2] = [
    ("podsandbox", &["pod_*", "pods", "node_install"]),
    ("shim", &["pods"]),
];

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
    timed("docker", &mut docker::fetch)?;
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
        run::command(cargo_test().args(["--workspace", "--no-fail-fast"]))
    })?;
    timed("containerd 2", &mut || {
        let programs = containerd2::programs()?;
        for (sandboxer, tests) in CONTAINERD2 {
            println!("\n== containerd 2, sandboxer `{sandboxer}`");
            let mut test = cargo_test();
            // Of one package alone, all it needs would be compiled anew.
            test.args(["--workspace", "--no-fail-fast"]);
            test.args(tests.iter().flat_map(|name| ["--test", name]));
            test.env("PATH", before(&programs)?);
            run::command(test.env("BULKHEAD_E2E_SANDBOXER", sandboxer))?;
        }
        Ok(())
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
        println!("{name:<12} {seconds:>5} s");
    }
    Ok(())
}

fn cargo_test() -> Command {
    let mut test = run::cargo();
    let program = run::workspace().join("target/debug/bulkhead");
    test.arg("test").env("BULKHEAD_TEST_PROGRAM", program);
    test
}

/// The search path with a directory before all others.
fn before(first: &Path) -> Outcome<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(first.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(all).map_err(|e| e.to_string())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

//! Every test.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::run::{self, Outcome};
use crate::{Kernel, containerd2, demo, docker, guest, lab, prerequisites};

/// What is tried once more with containerd 2, by who runs the sandbox of a pod:
/// containerd, by a task, or the shim, by the Sandbox API. Patterns of cargo's.
const CONTAINERD2: [(&str, &[&str]); 2] = [
    ("podsandbox", &["pod_*", "pods", "ctr", "node_install"]),
    ("shim", &["pods"]),
];

/// For the tests, with what they are compiled from: a third is usual, and one that waits
/// forever has to be told of before CI ends itself after 60.
const LIMIT: Duration = Duration::from_secs(40 * 60);

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
        let all = ["--workspace", "--no-fail-fast"];
        run::within(LIMIT, cargo_test().args(all))
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
            run::within(LIMIT, test.env("BULKHEAD_E2E_SANDBOXER", sandboxer))?;
        }
        Ok(())
    })?;
    timed("KVM", &mut || on_kvm(yes))?;
    timed("systemd", &mut || with_systemd(yes))?;
    for (name, seconds) in times {
        println!("{name:<12} {seconds:>5} s");
    }
    Ok(())
}

/// Emulated guests say nothing of what only KVM does.
fn on_kvm(yes: bool) -> Outcome {
    let script = run::workspace().join("tests/lab/kvm.sh");
    let image = format!("oci:{}:latest", text(&image()?));
    let pods = text(&program().with_file_name("pods-bench"));
    let words = ["sh", &text(&script), &text(&program()), &image, &pods];
    in_lab(yes, false, &words)
}

/// Nor does a machine without systemd of what it does to control groups.
fn with_systemd(yes: bool) -> Outcome {
    let script = run::workspace().join("tests/lab/systemd.sh");
    let image = text(&image()?);
    let pods = test_program("pod_host")?;
    let words = ["bash", &text(&script), &text(&program()), &image, &pods];
    in_lab(yes, true, &words)
}

fn in_lab(yes: bool, systemd: bool, words: &[&str]) -> Outcome {
    let options = lab::Options {
        instruction_clock: false,
        systemd,
        minutes: 15,
    };
    let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
    lab::run(yes, options, &words)
}

fn program() -> PathBuf {
    run::workspace().join("target/debug/bulkhead")
}

/// The demo's image, made where it is not there.
fn image() -> Outcome<PathBuf> {
    let dir = run::workspace().join("target/demo");
    let image = dir.join("image");
    if !image.exists() {
        demo::make_image(&dir, &image)?;
    }
    Ok(image)
}

/// The program of a file of tests, which is built.
fn test_program(name: &str) -> Outcome<String> {
    let mut build = cargo_test();
    build.args(["--workspace", "--no-run", "--test", name]);
    let told = run::said(build.args(["--message-format", "json"]))?;
    let executable = told.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let own = message["target"]["name"] == name;
        own.then(|| message["executable"].as_str().map(str::to_owned))?
    });
    executable.ok_or_else(|| format!("cargo built no program of the tests `{name}`"))
}

fn cargo_test() -> Command {
    let mut test = run::cargo();
    test.arg("test").env("BULKHEAD_TEST_PROGRAM", program());
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

//! Every test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::run::{self, Outcome};
use crate::{Kernel, demo, docker, guest, lab, next, prerequisites};

/// What is tried once more on Debian's next release: all that has to do with its monitor,
/// its containerd and its Podman. Patterns of cargo's.
const NEXT: [&str; 10] = [
    "ctr",
    "docker",
    "limits",
    "node_install",
    "oci",
    "pod_*",
    "podman*",
    "pods",
    "run",
    "volumes",
];

/// Who runs the sandbox of a pod of containerd 2: containerd, by a task, or the shim, by
/// the Sandbox API, which is tried with this.
const BY_SHIM: (&str, &str) = ("BULKHEAD_E2E_SANDBOXER=shim", "pods");

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
    timed("next release", &mut on_the_next_release)?;
    timed("KVM", &mut || on_kvm(yes))?;
    timed("systemd", &mut || with_systemd(yes))?;
    for (name, seconds) in times {
        println!("{name:<12} {seconds:>5} s");
    }
    Ok(())
}

/// What users have next.
fn on_the_next_release() -> Outcome {
    next::versions()?;
    let program = format!("BULKHEAD_TEST_PROGRAM={}", text(&program()));
    let mut failed = Vec::new();
    let mut run = |test: &TestProgram, more: &[&str]| {
        println!(
            "\n== Debian's next release: {} {}",
            test.name,
            more.join(" ")
        );
        let place = format!("--chdir={}", test.package);
        let words = [&["env", &place, &program], more, &[&test.path]].concat();
        run::within(LIMIT / 4, &mut next::TESTS.command(&words)?).or_else(|error| {
            println!("{error}");
            failed.push(test.name.clone());
            Ok::<_, String>(())
        })
    };
    for test in test_programs(&NEXT)? {
        run(&test, &[])?;
        if test.name == BY_SHIM.1 {
            run(&test, &[BY_SHIM.0])?;
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "on Debian's next release failed: {}",
            failed.join(", ")
        )),
    }
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
    let pods = test_programs(&["pod_host"])?.remove(0).path;
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

/// A file of tests, compiled.
struct TestProgram {
    name: String,
    /// The directory of its package, where cargo would run it.
    package: String,
    path: String,
}

/// The programs of files of tests, which are built; patterns of cargo's.
fn test_programs(patterns: &[&str]) -> Outcome<Vec<TestProgram>> {
    let mut build = cargo_test();
    // Of one package alone, all it needs would be compiled anew.
    build.args(["--workspace", "--no-run", "--message-format", "json"]);
    build.args(patterns.iter().flat_map(|name| ["--test", name]));
    let told = run::said(&mut build)?;
    let mut programs: Vec<_> = told.lines().filter_map(test_program).collect();
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    match programs.is_empty() {
        true => Err(format!("cargo built no program of the tests {patterns:?}")),
        false => Ok(programs),
    }
}

/// What cargo says of one, if that is what it says.
fn test_program(line: &str) -> Option<TestProgram> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let is_test = message["target"]["kind"][0] == "test";
    let manifest = Path::new(message["manifest_path"].as_str()?);
    is_test.then_some(TestProgram {
        name: message["target"]["name"].as_str()?.to_owned(),
        package: text(manifest.parent()?),
        path: message["executable"].as_str()?.to_owned(),
    })
}

fn cargo_test() -> Command {
    let mut test = run::cargo();
    test.arg("test").env("BULKHEAD_TEST_PROGRAM", program());
    test
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

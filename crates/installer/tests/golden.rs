//! What is written for each runtime, file by file: `golden/NAME/before` is a
//! machine, `after` is everything of it but `/opt`, once installed.
//! `BULKHEAD_GOLDEN=write` writes `after` anew.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "each test file uses a part")]
mod support;

use std::path::{Path, PathBuf};

use bulkhead_installer::Error;
use bulkhead_installer::config::ConfigError;
use bulkhead_installer::runtime::RuntimeVersion;
use support::{Machine, Snapshot};

/// Each machine, and the version its runtime tells.
const MACHINES: [(&str, RuntimeVersion); 13] = [
    ("containerd-1", RuntimeVersion(1, 6)),
    ("containerd-1.7", RuntimeVersion(1, 7)),
    ("containerd-1-oldest", RuntimeVersion(1, 6)),
    ("containerd-2.0", RuntimeVersion(2, 0)),
    ("containerd-2.2", RuntimeVersion(2, 2)),
    ("containerd-2.2-version-2", RuntimeVersion(2, 2)),
    ("containerd-2.2-no-import", RuntimeVersion(2, 2)),
    ("crio", RuntimeVersion(1, 31)),
    ("k3s", RuntimeVersion(2, 0)),
    ("rke2", RuntimeVersion(2, 0)),
    ("k0s", RuntimeVersion(1, 7)),
    ("microk8s", RuntimeVersion(1, 6)),
    ("podman", RuntimeVersion(4, 3)),
];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Files below a directory and what is in them.
fn files(dir: &Path, inner: &Path, found: &mut Vec<(String, String)>) {
    let Ok(entries) = std::fs::read_dir(dir.join(inner)) else {
        return;
    };
    for entry in entries.flatten() {
        let path = inner.join(entry.file_name());
        if entry.path().is_dir() {
            files(dir, &path, found);
        } else {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            found.push((path.display().to_string(), text));
        }
    }
    found.sort();
}

fn machine(name: &str) -> Machine {
    let mut found = Vec::new();
    files(
        &golden().join(name).join("before"),
        Path::new(""),
        &mut found,
    );
    let files: Vec<_> = found
        .iter()
        .map(|(p, t)| (p.as_str(), t.as_str()))
        .collect();
    Machine::with(&files)
}

/// Everything but our own directory.
fn configured(machine: &Machine) -> Vec<(String, String)> {
    let mut found = Vec::new();
    files(machine.dir.path(), Path::new(""), &mut found);
    found.retain(|(path, _)| !path.starts_with("opt/"));
    found
}

#[test]
fn every_runtime_gets_what_it_reads_and_keeps_what_it_had() {
    for (name, version) in MACHINES {
        let mut machine = machine(name);
        let before: Snapshot = machine.snapshot();
        let wish = machine.wish(Some(version)).unwrap();
        machine.install_as("one", &wish).unwrap();
        let now = configured(&machine);
        let after = golden().join(name).join("after");
        if std::env::var("BULKHEAD_GOLDEN").as_deref() == Ok("write") {
            for (path, text) in &now {
                let path = after.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
        }
        let mut wanted = Vec::new();
        files(&after, Path::new(""), &mut wanted);
        assert_eq!(now, wanted, "{name}");
        for (path, text) in &now {
            assert!(text.parse::<toml::Table>().is_ok(), "{name}: {path}");
        }
        machine.uninstall().unwrap();
        assert_eq!(machine.snapshot(), before, "{name}");
    }
}

#[test]
fn a_template_without_the_import_is_refused_with_the_line_to_add() {
    for name in ["k3s", "rke2"] {
        let machine = machine(name);
        let dir = machine
            .dir
            .path()
            .join(format!("var/lib/rancher/{name}/agent/etc/containerd"));
        std::fs::write(dir.join("config.toml"), "version = 3\n").unwrap();
        let error = machine.wish(None).unwrap_err();
        assert!(
            matches!(error, Error::Config(ConfigError::NoImport { .. })),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.contains("imports = [") && text.contains("config-v3.toml.d"),
            "{text}"
        );
    }
}

#[test]
fn two_runtimes_need_a_choice_and_a_distribution_comes_before_a_plain_one() {
    let both = Machine::with(&[("etc/containerd/x", ""), ("etc/crio/x", "")]);
    let text = both.wish(None).unwrap_err().to_string();
    assert!(
        text.contains("containerd, crio") && text.contains("--runtime"),
        "{text}"
    );
    let k0s = Machine::with(&[("etc/containerd/x", ""), ("etc/k0s/x", "")]);
    let wish = k0s.wish(Some(RuntimeVersion(1, 7))).unwrap();
    assert_eq!(wish.place.runtime.word(), "k0s");
}

/// Refused, and not a byte of the machine is other than before.
fn refused(machine: &mut Machine) -> String {
    let before = machine.snapshot();
    let error = machine.install("one").unwrap_err();
    assert_eq!(machine.snapshot(), before, "{error}");
    std::iter::successors(Some(&error as &dyn std::error::Error), |error| {
        error.source()
    })
    .map(ToString::to_string)
    .collect::<Vec<_>>()
    .join(": ")
}

#[test]
fn configurations_that_cannot_take_a_handler_are_refused_untouched() {
    let table = "plugins.\"io.containerd.grpc.v1.cri\".containerd";
    for (text, reason) in [
        ("version = 2\nx = [".to_owned(), "cannot be understood"),
        ("version = 7\n".to_owned(), "version = 7"),
        (
            "version = 2\n# BEGIN bulkhead\n".to_owned(),
            "remove those lines",
        ),
        (
            format!("version = 2\n[{table}.runtimes.kata]\nruntime_type = \"x\"\n"),
            "not ours",
        ),
        (
            format!("version = 2\n[{table}]\nruntimes = {{}}\n"),
            "inline table",
        ),
    ] {
        let mut machine = Machine::with(&[("etc/containerd/config.toml", &text)]);
        let said = refused(&mut machine);
        assert!(said.contains(reason), "{text}: {said}");
    }
    let mut machine = Machine::with(&[("etc/containerd/x", "")]);
    let path = machine.dir.path().join("etc/containerd/config.toml");
    std::os::unix::fs::symlink("x", path).unwrap();
    assert!(refused(&mut machine).contains("config.toml"));
}

#[test]
fn somebody_elses_directory_in_our_place_is_refused() {
    let mut machine = Machine::with(&[
        ("etc/containerd/config.toml", "version = 2\n"),
        ("opt/bulkhead/theirs", ""),
    ]);
    assert!(refused(&mut machine).contains("move it away"));
}

//! Pods through containerd's CRI.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::run::{self, Outcome};

/// Runtime handlers measured, and their names in the report.
pub(super) const HANDLERS: [(&str, &str); 2] =
    [("kata", "pods of bulkhead"), ("runc", "pods of runc")];

/// How many pods there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crowd {
    /// That stand by when memory is read and further ones are started.
    standing: u32,
    /// Started at the same moment at most.
    at_once: u32,
}

/// What a node has.
pub(super) const NODE: Crowd = Crowd {
    standing: 30,
    at_once: 10,
};

/// One after the other, for a lab with one processor.
pub(super) const LAB: Crowd = Crowd {
    standing: 0,
    at_once: 1,
};

/// Builds a program that measures.
pub(super) fn build(program: &str) -> Outcome {
    let package = ["build", "--package", "bulkhead-e2e", "--bin", program];
    run::command(run::cargo().args(package))
}

/// Measures the pods of a handler: what `pods-bench` prints.
pub(super) fn measure(handler: &str, rounds: u32, crowd: Crowd) -> Outcome<Value> {
    let mut command = Command::new(run::workspace().join("target/debug/pods-bench"));
    command.args([rounds, crowd.standing, crowd.at_once].map(|number| number.to_string()));
    ask(&mut command, handler)
}

/// Runs what measures pods of a handler, and gives what it prints.
pub(super) fn ask(command: &mut Command, handler: &str) -> Outcome<Value> {
    let accelerator = std::env::var("BULKHEAD_ACCEL").unwrap_or_else(|_| "auto".to_owned());
    command
        .env("BULKHEAD_E2E_HANDLER", handler)
        .env("BULKHEAD_ACCEL", accelerator)
        // As pods are by default: later ones find their layers as images.
        .env("BULKHEAD_E2E_LAYERS", "1")
        .env(
            "BULKHEAD_TEST_PROGRAM",
            run::workspace().join("target/release/bulkhead"),
        )
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = command.output().map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(format!("pods of `{handler}` could not be measured"));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("pods of `{handler}`: {e}"))
}

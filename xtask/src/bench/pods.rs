//! Pods through containerd's CRI.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::run::{self, Outcome};

/// Runtime handlers measured, and their names in the report.
pub(super) const HANDLERS: [(&str, &str); 2] =
    [("kata", "pods of bulkhead"), ("runc", "pods of runc")];

/// Pods that stand by when memory is read and further ones are started.
const STANDING: &str = "30";

/// Measures the pods of a handler: what `pods-bench` prints.
pub(super) fn measure(handler: &str, rounds: u32) -> Outcome<Value> {
    let accelerator = std::env::var("BULKHEAD_ACCEL").unwrap_or_else(|_| "auto".to_owned());
    let mut command: Command = run::cargo();
    command
        .args([
            "run",
            "--quiet",
            "--package",
            "bulkhead-e2e",
            "--bin",
            "pods-bench",
        ])
        .args(["--", &rounds.to_string(), STANDING])
        .env("BULKHEAD_E2E_HANDLER", handler)
        .env("BULKHEAD_ACCEL", accelerator)
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

//! The operator at a thousand nodes, and an agent on one.

use std::process::Stdio;

use serde_json::{Value, json};

use super::{directory, text};
use crate::run::{self, Outcome};

/// A program, the variable that names it to its test, and the test.
const MEASURED: [(&str, &str, &str); 2] = [
    (
        "bulkhead-operator",
        "BULKHEAD_OPERATOR_PROGRAM",
        "a_thousand_nodes_cost",
    ),
    (
        "bulkhead-node-agent",
        "BULKHEAD_NODE_AGENT_PROGRAM",
        "an_agent_costs",
    ),
];

/// What a measurement's line begins with.
const FIGURES: &str = "figures: ";

/// Builds both as they are shipped, measures them against the test API server,
/// and writes `target/bench/operator.json`.
pub(super) fn run() -> Outcome {
    let mut build = run::cargo();
    build.args(["build", "--release"]);
    run::command(build.args(MEASURED.iter().flat_map(|(name, ..)| ["--package", name])))?;
    let mut report = json!({});
    for (package, variable, test) in MEASURED {
        let figures = measure(package, variable, test)?;
        println!("\n{package}");
        print(&figures, "");
        report[package] = figures;
    }
    let path = directory()?.join("operator.json");
    std::fs::write(&path, format!("{report:#}\n")).map_err(text)?;
    println!("\nwritten to {}", path.display());
    Ok(())
}

fn measure(package: &str, variable: &str, test: &str) -> Outcome<Value> {
    let program = run::workspace().join("target/release").join(package);
    let mut command = run::cargo();
    command
        .args(["test", "--quiet", "--package", package, "--test", "life"])
        .args(["--", "--ignored", "--nocapture", "--exact", test])
        .env(variable, program)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = command.output().map_err(text)?;
    let told = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("`{package}` could not be measured: {told}"));
    }
    let figures = told.lines().find_map(|line| line.strip_prefix(FIGURES));
    let figures = figures.ok_or_else(|| format!("`{test}` printed no figures: {told}"))?;
    serde_json::from_str(figures).map_err(|error| format!("`{test}`: {error}"))
}

fn print(figures: &Value, before: &str) {
    for (name, figure) in figures.as_object().into_iter().flatten() {
        match figure.as_f64() {
            Some(number) => println!("  {:<36} {number:>10.1}", format!("{before}{name}")),
            None => print(figure, &format!("{name}.")),
        }
    }
}

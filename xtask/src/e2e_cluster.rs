//! The operator on a cluster.

use crate::run::{self, Outcome};

/// Programs that stand in for a cluster's pods.
const STAND_IN: [&str; 3] = [
    "bulkhead-apiserver",
    "bulkhead-operator",
    "bulkhead-node-agent",
];
const TRIAL: &str = "bulkhead-cluster-e2e";

/// Builds what a trial needs, and runs it with `args`.
pub(crate) fn run(stand_in: bool, args: &[String]) -> Outcome {
    let mut build = run::cargo();
    build.args(["build", "--package", TRIAL]);
    if stand_in {
        build.args(STAND_IN.iter().flat_map(|name| ["--package", name]));
    }
    run::command(&mut build)?;
    let mut trial = std::process::Command::new(run::workspace().join("target/debug").join(TRIAL));
    if stand_in {
        trial.arg("--stand-in");
    }
    run::command(trial.args(args))
}

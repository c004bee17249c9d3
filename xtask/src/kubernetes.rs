//! The operator's story on Kubernetes itself: a cluster of one node, which is
//! made on this machine and ends with the story. `tests/kubernetes/README.md`.

use std::process::Command;

use crate::run::{self, Outcome};
use crate::{Kernel, guest, images, prerequisites};

/// What is in the images, and who tells the story.
const PACKAGES: [&str; 5] = [
    "bulkhead",
    "bulkhead-shim",
    "bulkhead-operator",
    "bulkhead-node-agent",
    "bulkhead-cluster-e2e",
];

/// Builds everything, starts the cluster, and tells the story with `args`
/// beside what this cluster asks for.
pub(crate) fn run(yes: bool, args: &[String]) -> Outcome {
    prerequisites::install(yes)?;
    prerequisites::install_cluster(yes)?;
    let kernel = match guest::has_tuned() {
        true => Kernel::Tuned,
        false => Kernel::Distro,
    };
    guest::build(kernel)?;
    let mut build = run::cargo();
    build.arg("build");
    build.args(PACKAGES.iter().flat_map(|name| ["--package", name]));
    run::command(&mut build)?;

    let target = run::workspace().join("target");
    let (programs, dir) = (target.join("debug"), target.join("kubernetes"));
    let layouts = dir.join("layouts");
    images::run(&images::Options::of(&programs, &layouts))?;
    let script = run::workspace().join("tests/kubernetes/run.sh");
    let mut cluster = Command::new(script);
    cluster.arg(dir).arg(layouts);
    cluster.arg(programs.join("bulkhead-cluster-e2e"));
    for (option, image) in [
        ("--operator-image", "bulkhead-operator"),
        ("--node-agent-image", "bulkhead-node-agent"),
    ] {
        let version = env!("CARGO_PKG_VERSION");
        cluster.args([option, &format!("localhost/{image}:{version}")]);
    }
    cluster.args(["--pod-image", "localhost/busybox:1"]);
    // A machine that can do better does.
    cluster.args(["--agent-arg=--allow-emulation", "--patience=240"]);
    run::command(cluster.args(args))
}

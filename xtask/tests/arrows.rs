//! The picture in ARCHITECTURE.md, held: which crate may know which.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod tree;

use std::process::Command;

use tree::{all_sources, workspace};

/// Left may depend on right, and on nothing else of the workspace.
const ARROWS: &[(&str, &[&str])] = &[
    ("bulkhead-sys", &[]),
    ("bulkhead-protocol", &[]),
    ("bulkhead-hypervisor", &[]),
    ("bulkhead-archive", &[]),
    ("bulkhead-config", &[]),
    ("bulkhead-control", &[]),
    ("bulkhead-erofs", &[]),
    ("bulkhead-seccomp", &[]),
    ("bulkhead-status", &[]),
    ("bulkhead-systemd", &[]),
    ("bulkhead-telemetry", &[]),
    (
        "bulkhead-bundle",
        &["bulkhead-config", "bulkhead-protocol", "bulkhead-status"],
    ),
    ("bulkhead-kataconfig", &[]),
    ("bulkhead-packaging", &[]),
    ("bulkhead-rollout", &["bulkhead-kataconfig"]),
    ("bulkhead-guest", &["bulkhead-sys"]),
    ("bulkhead-network", &["bulkhead-sys"]),
    ("bulkhead-share", &["bulkhead-sys"]),
    ("bulkhead-image", &["bulkhead-erofs", "bulkhead-sys"]),
    ("bulkhead-layers", &["bulkhead-erofs"]),
    ("bulkhead-qemu", &["bulkhead-hypervisor", "bulkhead-sys"]),
    (
        "bulkhead-sandbox",
        &["bulkhead-hypervisor", "bulkhead-protocol", "bulkhead-sys"],
    ),
    (
        "bulkhead-provision",
        &[
            "bulkhead-guest",
            "bulkhead-hypervisor",
            "bulkhead-network",
            "bulkhead-qemu",
            "bulkhead-sandbox",
            "bulkhead-seccomp",
            "bulkhead-share",
            "bulkhead-sys",
            "bulkhead-systemd",
        ],
    ),
    (
        "bulkhead-installer",
        &[
            "bulkhead-config",
            "bulkhead-guest",
            "bulkhead-protocol",
            "bulkhead-systemd",
        ],
    ),
    (
        "bulkhead-agent",
        &["bulkhead-archive", "bulkhead-protocol", "bulkhead-sys"],
    ),
    (
        "bulkhead",
        &[
            "bulkhead-archive",
            "bulkhead-config",
            "bulkhead-control",
            "bulkhead-guest",
            "bulkhead-hypervisor",
            "bulkhead-image",
            "bulkhead-installer",
            "bulkhead-network",
            "bulkhead-protocol",
            "bulkhead-provision",
            "bulkhead-sandbox",
            "bulkhead-seccomp",
            "bulkhead-share",
            "bulkhead-status",
            "bulkhead-sys",
        ],
    ),
    (
        "bulkhead-shim",
        &[
            "bulkhead-bundle",
            "bulkhead-config",
            "bulkhead-control",
            "bulkhead-hypervisor",
            "bulkhead-layers",
            "bulkhead-protocol",
            "bulkhead-provision",
            "bulkhead-sandbox",
            "bulkhead-share",
            "bulkhead-status",
            "bulkhead-sys",
        ],
    ),
    ("bulkhead-apiserver", &[]),
    (
        "bulkhead-operator",
        &[
            "bulkhead-kataconfig",
            "bulkhead-rollout",
            "bulkhead-telemetry",
        ],
    ),
    (
        "bulkhead-node-agent",
        &[
            "bulkhead-guest",
            "bulkhead-installer",
            "bulkhead-kataconfig",
            "bulkhead-provision",
            "bulkhead-telemetry",
        ],
    ),
    ("kubectl-bulkhead", &["bulkhead-kataconfig"]),
    ("bulkhead-cluster-e2e", &["bulkhead-kataconfig"]),
    ("bulkhead-e2e", &["bulkhead-apiserver"]),
    ("xtask", &["bulkhead-guest", "bulkhead-packaging"]),
];

#[test]
fn dependencies_point_down_only() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(workspace())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert_eq!(
        packages.len(),
        ARROWS.len(),
        "a crate without a row in the table, or the reverse"
    );
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let (_, allowed) = ARROWS.iter().find(|(own, _)| *own == name).expect(name);
        for dependency in package["dependencies"].as_array().unwrap() {
            let on = dependency["name"].as_str().unwrap();
            let own = ARROWS.iter().any(|(other, _)| *other == on);
            let ships = dependency["kind"] != "dev";
            assert!(
                !own || !ships || allowed.contains(&on),
                "`{name}` must not know `{on}`"
            );
        }
    }
}

#[test]
fn one_file_names_the_backend() {
    for path in all_sources() {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        let may = ["crates/qemu/", "provision/src/monitor.rs", "xtask/"];
        let names = text.contains("bulkhead_qemu");
        assert!(
            !names || may.iter().any(|part| shown.contains(part)),
            "{shown} names a backend"
        );
    }
}

#[test]
fn unsafe_code_is_in_its_two_rooms() {
    for path in all_sources() {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        let may = [
            "crates/sys/",
            "agent/src/container/syscalls.rs",
            "xtask/tests/",
        ];
        let has = text.contains("unsafe {");
        assert!(
            !has || may.iter().any(|part| shown.contains(part)),
            "{shown} holds unsafe code"
        );
    }
}

#[test]
fn no_file_is_called_after_nothing() {
    for path in all_sources() {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let banned = [
            "common", "util", "utils", "helpers", "manager", "service", "misc",
        ];
        assert!(!banned.contains(&stem.as_str()), "{}", path.display());
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 600, "{} has {lines} lines", path.display());
    }
}

#[test]
fn error_texts_begin_small_and_end_without_a_stop() {
    for path in all_sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        for part in text.split("#[error(\"").skip(1) {
            let message = part.split("\")]").next().unwrap_or_default();
            let first = message.chars().next().unwrap_or('x');
            // Names keep their own spelling.
            let name = message.starts_with("KVM");
            assert!(
                name || !first.is_uppercase(),
                "{}: {message}",
                path.display()
            );
            assert!(!message.ends_with('.'), "{}: {message}", path.display());
        }
    }
}

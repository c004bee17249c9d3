//! The images of `cargo xtask images`, opened by another program and run.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The programs of the tree, as they were built for the tests.
fn programs() -> PathBuf {
    let dir = Path::new(env!("CARGO_BIN_EXE_xtask")).parent().unwrap();
    let operator = dir.join("bulkhead-operator");
    let shown = operator.display();
    assert!(operator.exists(), "`{shown}`: run `cargo xtask test`");
    dir.to_owned()
}

fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

fn make(name: &str, out: &Path) {
    let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"));
    xtask.args(["images", "--only", name, "--out"]).arg(out);
    done(xtask.arg("--programs").arg(programs()));
}

fn root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Opens an image below `dir`; the answer is its tree of files.
fn unpack(dir: &Path, name: &str) -> PathBuf {
    let unpacked = dir.join("unpacked");
    let image = format!("{}:{VERSION}", dir.join(name).display());
    let mut unpack = Command::new("umoci");
    unpack.args(["unpack", "--image", &image]);
    if !root() {
        unpack.arg("--rootless");
    }
    done(unpack.arg(&unpacked));
    unpacked.join("rootfs")
}

/// Runs a program of a tree with nothing of this machine but the kernel.
fn run(files: &Path, command: &[&str]) -> String {
    let mut run = Command::new("chroot");
    if !root() {
        run = Command::new("unshare");
        run.args(["--map-root-user", "chroot"]);
    }
    done(run.arg(files).args(command))
}

fn blob(layout: &Path, digest: &Value) -> Value {
    let digest = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
    let text = std::fs::read(layout.join("blobs/sha256").join(digest)).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn the_operators_image_has_all_that_its_program_needs() {
    let dir = tempfile::tempdir().unwrap();
    make("operator", dir.path());
    let layout = dir.path().join("bulkhead-operator");
    let text = std::fs::read(layout.join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&text).unwrap();
    let manifest = &index["manifests"][0];
    let tag = &manifest["annotations"]["org.opencontainers.image.ref.name"];
    assert_eq!(tag, VERSION);
    let manifest = blob(&layout, &manifest["digest"]);
    let config = blob(&layout, &manifest["config"]["digest"]);
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"][0], "/bulkhead-operator");
    assert_eq!(config["architecture"], "amd64");

    let files = unpack(dir.path(), "bulkhead-operator");
    let mode = files.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755, "others have to enter it");
    let told = run(&files, &["/bulkhead-operator", "--version"]);
    assert_eq!(told.trim(), format!("bulkhead-operator {VERSION}"));
}

#[test]
fn the_node_agents_image_has_what_it_installs() {
    let dir = tempfile::tempdir().unwrap();
    make("node-agent", dir.path());
    let files = unpack(dir.path(), "bulkhead-node-agent");
    for program in ["/bulkhead-node-agent", "/payload/bulkhead"] {
        let told = run(&files, &[program, "--version"]);
        assert!(told.trim().ends_with(VERSION), "{program}: {told}");
    }
    assert!(files.join("payload/containerd-shim-bulkhead-v2").is_file());
    let guests = std::fs::read_dir(files.join("payload/guest/guests")).unwrap();
    let guests: Vec<_> = guests.map(|guest| guest.unwrap().path()).collect();
    assert_eq!(guests.len(), 1);
    for file in ["kernel", "initramfs", "manifest.json"] {
        assert!(guests[0].join(file).is_file(), "no {file}");
    }
}

/// The first container of the manifest of a name.
fn container(file: &str, name: &str) -> Value {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let text = std::fs::read_to_string(deploy.join(file)).unwrap();
    let objects = text
        .split("\n---\n")
        .map(|part| serde_saphyr::from_str::<Value>(part).unwrap());
    let mut pods = objects.filter(|object| object["spec"]["template"].is_object());
    let pod = pods.find(|object| object["metadata"]["name"] == name);
    pod.unwrap()["spec"]["template"]["spec"]["containers"][0].clone()
}

#[test]
fn the_programs_take_what_the_manifests_say_to_them() {
    let rows = [
        ("operator/deployment.yaml", "bulkhead-operator"),
        ("node-agent/daemonset.yaml", "bulkhead-node-agent"),
        ("monitor/daemonset.yaml", "bulkhead-monitor"),
    ];
    for (file, name) in rows {
        let container = container(file, name);
        let words = |key: &str| {
            let list = container[key].as_array().cloned().unwrap_or_default();
            list.iter()
                .map(|word| word.as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let image = container["image"].as_str().unwrap();
        let image = image.strip_prefix("localhost/").unwrap();
        let image = image.split(':').next().unwrap();
        let mut command = words("command");
        if command.is_empty() {
            command.push(format!("/{image}"));
        }
        command.extend(words("args"));
        let program = command[0].rsplit('/').next().unwrap();
        // Arguments are read in their order: a bad one is told before help is.
        let mut run = Command::new(programs().join(program));
        let told = done(run.args(&command[1..]).arg("--help"));
        assert!(told.contains("Usage:"), "{told}");
    }
}

#[test]
fn the_same_programs_make_the_same_image() {
    let dir = tempfile::tempdir().unwrap();
    let index = |name: &str| {
        let out = dir.path().join(name);
        make("operator", &out);
        let path = out.join("bulkhead-operator/index.json");
        std::fs::read_to_string(path).unwrap()
    };
    assert_eq!(index("one"), index("two"));
}

//! The manifests, and the programs that read them.

#![allow(dead_code, reason = "each test uses what it needs")]

use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::serde_json::{self, Value};

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(crate) fn deploy() -> PathBuf {
    workspace().join("deploy")
}

/// The objects of a text of several.
pub(crate) fn objects(text: &str) -> Vec<Value> {
    let parts = text
        .split("\n---")
        .map(|part| part.trim_start_matches("---"));
    let objects = parts.map(|part| serde_saphyr::from_str::<Value>(part).unwrap());
    objects.filter(|object| !object.is_null()).collect()
}

/// Standard output of a program that has to succeed.
pub(crate) fn output(command: &mut Command, install: &str) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; install it: {install}"));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

/// A directory below `deploy/` as kustomize builds it.
pub(crate) fn kustomize(dir: &str) -> Vec<Value> {
    let build = |tree: &Path| {
        let mut command = Command::new("kubectl");
        command.arg("kustomize").arg(tree.join(dir));
        command
    };
    let install = "`apt install kubernetes-client`";
    let plain = build(&deploy()).output();
    // kubectl below 1.21, which Debian has, calls directories bases.
    if plain.is_ok_and(|plain| String::from_utf8_lossy(&plain.stderr).contains("must be a file")) {
        let copy = tempfile::tempdir().unwrap();
        for_old_kubectl(&deploy(), copy.path());
        return objects(&output(&mut build(copy.path()), install));
    }
    objects(&output(&mut build(&deploy()), install))
}

/// Copies a tree; no kustomization there has both files and directories.
fn for_old_kubectl(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&target).unwrap();
            for_old_kubectl(&entry.path(), &target);
            continue;
        }
        let mut text = std::fs::read_to_string(entry.path()).unwrap();
        if entry.file_name() == "kustomization.yaml" && text.contains("  - ../") {
            text = text.replace("resources:", "bases:");
        }
        std::fs::write(target, text).unwrap();
    }
}

/// What Helm says about the chart and these values.
pub(crate) fn helm(namespace: &str, values: &Value) -> Value {
    let own = workspace().join("target/helm/bin/python");
    let python = std::env::var_os("BULKHEAD_HELM_PYTHON").map_or(own, PathBuf::from);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/render.py");
    let mut command = Command::new(python);
    command.arg(script).arg(deploy().join("chart/bulkhead"));
    command.arg(namespace).arg(values.to_string());
    let install = "`cargo xtask test` does, or `python3 -m venv target/helm && \
                   target/helm/bin/pip install helm-python-sdk==0.2.2`";
    serde_json::from_str(&output(&mut command, install)).unwrap()
}

/// The objects of a release, without Helm's notes.
pub(crate) fn release(namespace: &str, values: &Value) -> Vec<Value> {
    let answer = helm(namespace, values);
    assert!(answer["refused"].is_null(), "{}", answer["refused"]);
    assert_eq!(answer["lint"]["errors"], serde_json::json!([]), "{answer}");
    let files = answer["manifests"].as_object().unwrap();
    let yaml = files.iter().filter(|(name, _)| name.ends_with(".yaml"));
    yaml.flat_map(|(_, text)| objects(text.as_str().unwrap()))
        .collect()
}

/// Kind, namespace and name.
pub(crate) fn identity(object: &Value) -> String {
    let name = &object["metadata"]["name"];
    let namespace = &object["metadata"]["namespace"];
    format!("{} {namespace}/{name}", object["kind"].as_str().unwrap())
}

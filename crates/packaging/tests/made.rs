//! What is made of the manifests is what the tree has.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod stage;

use stage::deploy;

#[test]
fn the_tree_has_what_the_manifests_make() {
    let outdated = bulkhead_packaging::outdated(&deploy()).unwrap();
    assert!(
        outdated.is_empty(),
        "run `cargo xtask deploy`: {outdated:?}"
    );
}

#[test]
fn a_changed_manifest_a_changed_file_and_one_too_many_are_seen() {
    let copy = tempfile::tempdir().unwrap();
    let from = deploy().join(".");
    let mut cp = std::process::Command::new("cp");
    assert!(
        cp.arg("-r")
            .arg(from)
            .arg(copy.path())
            .status()
            .unwrap()
            .success()
    );
    let outdated = || {
        let paths = bulkhead_packaging::outdated(copy.path()).unwrap();
        paths
            .iter()
            .map(|path| path.display().to_string())
            .collect::<Vec<_>>()
    };
    std::fs::write(copy.path().join("olm/strange.yaml"), "").unwrap();
    std::fs::remove_file(copy.path().join("images.txt")).unwrap();
    assert_eq!(outdated(), ["olm/strange.yaml", "images.txt"]);
    bulkhead_packaging::write(copy.path()).unwrap();
    assert!(outdated().is_empty());

    let file = copy.path().join("operator/deployment.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("replicas: 2", "replicas: 3")).unwrap();
    let changed = outdated();
    assert!(changed.contains(&"chart/bulkhead/values.yaml".to_owned()));
    let text = text.replace("replicas: 2", "");
    std::fs::write(&file, text).unwrap();
    let error = bulkhead_packaging::render(copy.path()).unwrap_err();
    assert!(error.to_string().contains("operator.replicas"), "{error}");
}

#[test]
fn images_bear_the_version_of_the_programs() {
    let text = std::fs::read_to_string(deploy().join("images.txt")).unwrap();
    let version = format!(":{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(
        text.lines().all(|image| image.ends_with(&version)),
        "{text}"
    );
    let operator = std::fs::read_to_string(deploy().join("operator/deployment.yaml")).unwrap();
    let release = format!("--release=stable={}", env!("CARGO_PKG_VERSION"));
    assert!(operator.contains(&release));
}

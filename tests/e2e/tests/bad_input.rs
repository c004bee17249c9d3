//! Bad input: a clear error, and nothing left behind.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;

use bulkhead_e2e::{Answer, Host, busybox_image, image, tool, write_program};

/// Runs a reference that must be refused with words about why.
fn refused(host: &Host, options: &[&str], reference: &str, words: &[&str]) {
    let mut args = vec!["run", "--rm", "--network", "none"];
    args.extend(options);
    args.extend([reference, "true"]);
    let answer = host.bulkhead(&args);
    assert_eq!(answer.code, 125, "{reference}: {answer:?}");
    for word in words {
        assert!(
            answer.err.contains(word),
            "{reference}: no `{word}` in {answer:?}"
        );
    }
    assert!(host.leftovers().is_empty(), "{reference}");
    host.settles();
}

fn blobs(layout: &Path) -> Vec<std::path::PathBuf> {
    let dir = layout.join("blobs/sha256");
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort_by_key(|path| std::cmp::Reverse(path.metadata().unwrap().len()));
    paths
}

#[test]
fn images_that_are_missing_or_malformed() {
    let host = Host::new();
    refused(&host, &[], "oci:/nowhere", &["/nowhere", "No such file"]);
    refused(&host, &[], "oci:", &["`oci:`"]);
    refused(
        &host,
        &[],
        &image().replace("latest", "other"),
        &["tag", "`other`"],
    );
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("index.json"), "{").unwrap();
    refused(
        &host,
        &[],
        &format!("oci:{}", temp.path().display()),
        &["index", "malformed"],
    );
}

#[test]
fn a_layer_that_is_truncated_or_changed() {
    let host = Host::new();
    let temp = tempfile::tempdir().unwrap();
    busybox_image(temp.path());
    let layout = temp.path().join("image");
    let reference = format!("oci:{}:latest", layout.display());
    let layer = blobs(&layout).remove(0);
    let good = std::fs::read(&layer).unwrap();
    std::fs::write(&layer, &good[..good.len() / 2]).unwrap();
    refused(&host, &[], &reference, &["damaged"]);
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(&layer, &bad).unwrap();
    refused(&host, &[], &reference, &["damaged"]);
    std::fs::remove_file(&layer).unwrap();
    refused(&host, &[], &reference, &["lacks its layer"]);
    // Nothing of the failures is in the store, and the whole image still runs.
    std::fs::write(&layer, &good).unwrap();
    assert_eq!(
        host.bulkhead(&["run", "--rm", "--network", "none", &reference, "true"])
            .code,
        0
    );
}

#[test]
fn an_image_for_another_processor_or_without_layers() {
    let host = Host::new();
    let temp = tempfile::tempdir().unwrap();
    let layout = temp.path().join("image").display().to_string();
    let empty = format!("{layout}:empty");
    tool("umoci", &["init", "--layout", &layout]);
    tool("umoci", &["new", "--image", &empty]);
    refused(&host, &[], &format!("oci:{empty}"), &["no layers"]);
    tool(
        "umoci",
        &["config", "--image", &empty, "--architecture", "arm64"],
    );
    refused(
        &host,
        &[],
        &format!("oci:{empty}"),
        &["linux/arm64", "linux/amd64"],
    );
}

#[test]
fn a_layer_that_leaves_its_root() {
    let host = Host::new();
    let temp = tempfile::tempdir().unwrap();
    busybox_image(temp.path());
    let layout = temp.path().join("image").display().to_string();
    let tar = temp.path().join("evil.tar").display().to_string();
    std::fs::write(temp.path().join("file"), "x").unwrap();
    let made = Command::new("tar")
        .args([
            "--create",
            "--absolute-names",
            "--transform",
            "s,^file,../../evil,",
            "--file",
            &tar,
        ])
        .args(["--directory", &temp.path().display().to_string(), "file"])
        .status()
        .unwrap();
    assert!(made.success());
    tool(
        "umoci",
        &[
            "raw",
            "add-layer",
            "--image",
            &format!("{layout}:latest"),
            &tar,
        ],
    );
    refused(
        &host,
        &[],
        &format!("oci:{layout}:latest"),
        &["evil", "leaves the root"],
    );
}

#[test]
fn options_that_make_no_sense() {
    let host = Host::new();
    let image = image();
    refused(&host, &["--memory", "1m"], &image, &["--memory", "6M"]);
    refused(&host, &["--memory", "90000g"], &image, &["this host has"]);
    refused(&host, &["--device", "/dev/sda"], &image, &["--privileged"]);
    refused(
        &host,
        &["--security-opt", "apparmor=x"],
        &image,
        &["AppArmor"],
    );
    refused(&host, &["--volume", "data:/x"], &image, &["named volumes"]);
    refused(&host, &["--publish", "80"], &image, &["--network none"]);
    refused(&host, &["--cap-add", "fly"], &image, &["fly"]);
    refused(&host, &["--name", "../x"], &image, &["../x"]);
    refused(&host, &["--storage", "1k"], &image, &["--storage"]);
}

#[test]
fn no_monitor_says_how_to_get_one() {
    let host = Host::new();
    let image = image();
    let mut command = host.command(&["run", "--rm", "--network", "none", &image, "true"]);
    let answer = Answer::of(command.env("PATH", "/nowhere"));
    assert_eq!(answer.code, 125, "{answer:?}");
    assert!(
        answer.err.contains("apt install qemu-system-x86"),
        "{answer:?}"
    );
    assert!(host.leftovers().is_empty() || host.bulkhead(&["rm", "-a"]).code == 0);
}

/// A monitor that is too old: one that does not know what it is told, and one
/// that would run it.
#[test]
fn an_old_monitor_is_named_with_the_version_that_is_needed() {
    use std::os::unix::fs::PermissionsExt;
    let greeting = r#"{"QMP":{"version":{"qemu":{"major":6,"minor":1,"micro":0}}}}"#;
    // The control connection is the one whose number stands behind "id=qmp,fd=".
    let talks = format!(
        r#"fd=$(echo "$*" | sed 's/.*id=qmp,fd=\([0-9]*\).*/\1/')
eval "echo '{greeting}' >&$fd"
exec sleep 100"#
    );
    for script in ["exit 1".to_owned(), talks] {
        let old = tempfile::tempdir().unwrap();
        let program = old.path().join("qemu-system-x86_64");
        let version = "[ \"$1\" = --version ] && exec echo QEMU emulator version 6.1.0";
        write_program(&program, &format!("#!/bin/sh\n{version}\n{script}\n"));
        // The monitor's user has to reach it.
        std::fs::set_permissions(old.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let path = std::env::var("PATH").unwrap();
        let host = Host::new();
        let image = image();
        let mut command = host.command(&["run", "--rm", "--network", "none", &image, "true"]);
        command.env("PATH", format!("{}:{path}", old.path().display()));
        let answer = Answer::of(&mut command);
        assert_eq!(answer.code, 125, "{answer:?}");
        assert!(
            answer.err.contains("6.1.0") && answer.err.contains("7.2 or newer"),
            "{answer:?}"
        );
    }
}

#[test]
fn no_guest_says_how_to_build_one() {
    let host = Host::new();
    let image = image();
    let empty = tempfile::tempdir().unwrap();
    let mut command = host.command(&["run", "--rm", "--network", "none", &image, "true"]);
    command.env("BULKHEAD_GUEST_CACHE", empty.path());
    let answer = Answer::of(&mut command);
    assert_eq!(answer.code, 125, "{answer:?}");
    assert!(answer.err.contains("bulkhead guest build"), "{answer:?}");
}

#[test]
fn a_store_without_room_says_so_and_keeps_nothing() {
    let host = Host::new();
    let image = image();
    let root = host.path().display().to_string();
    let program = bulkhead_e2e::program().display().to_string();
    // A file system of its own, gone with its namespace.
    let script = "mount -t tmpfs -o size=1M store \"$1\" && shift && \"$@\"; code=$?; \
                  find \"$BULKHEAD_ROOT\" -size +100k; exit $code";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh", &root, &program])
        .args(["run", "--rm", "--network", "none", &image, "true"])
        .env("BULKHEAD_ROOT", &root)
        .env("BULKHEAD_ACCEL", "tcg");
    let answer = Answer::of(&mut command);
    assert_eq!(answer.code, 125, "{answer:?}");
    assert!(answer.err.contains("No space left"), "{answer:?}");
    assert_eq!(answer.out, "");
}

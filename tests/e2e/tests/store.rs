//! The image store, used by several processes and killed at any moment.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use bulkhead_e2e::{Host, busybox_image, tool};

/// Rounds of the walk; in each, one of two pulls is killed.
const ROUNDS: u64 = 40;

/// An image of three layers, the second large enough to be killed in.
fn layered(dir: &Path) -> String {
    busybox_image(dir);
    let image = format!("{}:latest", dir.join("image").display());
    for (name, bytes) in [("large", 24 << 20), ("small", 1 << 10)] {
        // Not compressible, and the same every time.
        let mut seed = 1u64;
        let content: Vec<u8> = (0..bytes / 8)
            .flat_map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                seed.to_le_bytes()
            })
            .collect();
        let file = dir.join(name);
        std::fs::write(&file, content).unwrap();
        let source = file.display().to_string();
        let target = format!("/{name}");
        tool("umoci", &["insert", "--image", &image, &source, &target]);
    }
    format!("oci:{image}")
}

fn pull(host: &Host, image: &str) -> Child {
    let mut command = host.command(&["image", "pull", image]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Every converted layer and what it holds.
fn layers(host: &Host) -> BTreeMap<String, Vec<u8>> {
    let dir = std::fs::read_dir(host.path().join("store/layers")).unwrap();
    dir.map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    })
    .collect()
}

#[test]
fn a_killed_pull_leaves_nothing_wrong_and_nothing_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let image = layered(dir.path());
    let reference = Host::new();
    assert!(pull(&reference, &image).wait().unwrap().success());
    let expected = layers(&reference);
    assert_eq!(expected.len(), 3);
    let host = Host::new();
    let mut partly = 0;
    for round in 0..ROUNDS {
        let mut victim = pull(&host, &image);
        // Half of the rounds have a second one that wants the same layers.
        let other = (round % 2 == 0).then(|| pull(&host, &image));
        std::thread::sleep(Duration::from_millis(round * 7 % 240));
        victim.kill().unwrap();
        partly += u64::from(!victim.wait().unwrap().success());
        if let Some(mut other) = other {
            assert!(other.wait().unwrap().success(), "round {round}");
        }
        for (name, content) in layers(&host) {
            assert!(expected[&name] == content, "round {round}: {name}");
        }
        // Whatever the killed one left, the next one does not mind.
        assert!(pull(&host, &image).wait().unwrap().success(), "{round}");
        assert!(layers(&host) == expected, "round {round}");
        let removed = host.bulkhead(&["image", "rm", &image]);
        assert_eq!(removed.code, 0, "{removed:?}");
        let pruned = host.bulkhead(&["image", "prune"]);
        assert_eq!(pruned.code, 0, "{pruned:?}");
        for name in ["layers", "images", "tmp"] {
            let left = std::fs::read_dir(host.path().join("store").join(name)).unwrap();
            let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
            assert!(left.is_empty(), "round {round}: {name}: {left:?}");
        }
    }
    assert!(partly > ROUNDS / 4, "only {partly} pulls were killed");
}

#[test]
fn an_image_in_use_is_not_removed_under_its_container() {
    let host = Host::new();
    host.start("box", &["--network", "none"], "sleep 600");
    let image = host.image();
    let refused = host.bulkhead(&["image", "rm", &image]);
    assert_eq!(refused.code, 125, "{refused:?}");
    assert!(refused.err.contains("in use"), "{refused:?}");
    assert_eq!(host.bulkhead(&["image", "prune"]).code, 0);
    assert_eq!(
        host.exec("box", "cat /etc/group | head -n 1").out,
        "root:x:0:"
    );
    assert_eq!(host.bulkhead(&["rm", "--force", "box"]).code, 0);
    assert_eq!(host.bulkhead(&["image", "rm", &image]).code, 0);
}

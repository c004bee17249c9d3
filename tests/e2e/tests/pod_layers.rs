//! Snapshots of overlayfs: shared for the first container of an image, images of
//! their layers for the next.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_e2e::cri::{ContainerConfig, ImageSpec, RemoveImageRequest};
use bulkhead_e2e::{Answer, Node, in_machine, program, tool};

/// How long images may take that are made when nobody else has work.
const MADE: Duration = Duration::from_secs(120);

const IMAGE: &str = "localhost/layered:1";
const OTHER: &str = "localhost/other:1";

/// That of the busybox image, and what is put on it.
const LAYERS: usize = 4;

/// Everything of it a container could tell.
const LOOK: &str = "cd /; find bin/busybox bin/sh data etc/group etc/passwd home 2> /dev/null \
    | sort > /tmp/names; cat /tmp/names; \
    while read name; do stat -c '%n %A %u %g %t %T %Y' \"$name\"; readlink \"$name\"; \
    [ -f \"$name\" ] && stat -c '%h %s' \"$name\" && md5sum < \"$name\"; done < /tmp/names; echo all";

/// Puts layers on the busybox image, by arguments of `umoci insert`.
fn imported(node: &Node, name: &str, layers: &[&[&str]]) {
    let layout = node.path().join("busybox/image").display().to_string();
    let image = format!("{layout}:layered");
    let latest = format!("{layout}:latest");
    tool("umoci", &["tag", "--image", &latest, "layered"]);
    for layer in layers {
        tool("umoci", &[&["insert", "--image", &image], *layer].concat());
    }
    let archive = node.path().join("layered.tar").display().to_string();
    let to = format!("oci-archive:{archive}:{name}");
    tool("skopeo", &["copy", "--quiet", &format!("oci:{image}"), &to]);
    assert_eq!(node.ctr(&["image", "import", &archive]).code, 0);
    std::fs::remove_file(archive).unwrap();
}

/// An image whose layers hide and replace what is in others.
fn layered(node: &Node) {
    let dir = node.path();
    let data = dir.join("data");
    std::fs::create_dir_all(data.join("sub")).unwrap();
    std::fs::write(data.join("file"), "below").unwrap();
    std::fs::write(data.join("sub/gone"), "hidden with its directory").unwrap();
    std::fs::hard_link(data.join("file"), data.join("sub/same")).unwrap();
    let above = dir.join("above");
    std::fs::create_dir(&above).unwrap();
    std::fs::write(above.join("only"), "this").unwrap();
    let (data, above) = (data.display().to_string(), above.display().to_string());
    let layers: [&[&str]; 3] = [
        &[&data, "/data"],
        &["--whiteout", "/etc/group"],
        &["--opaque", &above, "/data/sub"],
    ];
    imported(node, IMAGE, &layers);
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.to_owned(),
        ..Default::default()
    }
}

fn of_image(config: &mut ContainerConfig) {
    config.image = Some(spec(IMAGE));
}

fn count(place: &Path) -> usize {
    std::fs::read_dir(place).map_or(0, Iterator::count)
}

/// Waits for whoever makes them, which tells nobody.
async fn images(place: &Path, number: usize) {
    let deadline = Instant::now() + MADE;
    while count(place) != number {
        assert!(Instant::now() < deadline, "{} of {number}", count(place));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Mounts of a kind the agent of a pod has.
fn mounts(pod: &str, kind: &str) -> usize {
    let mut command = std::process::Command::new(program());
    let answer = Answer::of(command.args(["debug", pod, "cat", "/proc/1/mounts"]));
    assert_eq!(answer.code, 0, "{answer:?}");
    let is_one = |line: &&str| line.split(' ').nth(2) == Some(kind);
    answer.out.lines().filter(is_one).count()
}

#[tokio::test]
async fn the_second_container_of_an_image_reads_images_and_sees_the_same() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let place = node.keep_layers();
    layered(&node);
    let first = node.pod("first").await;
    let shared = first
        .start_with("app", "sleep 1000", of_image)
        .await
        .unwrap();
    let before = shared.exec(LOOK).await;
    assert!(before.out.ends_with("all"), "{before:?}");
    assert!(
        !before.out.contains("etc/group") && !before.out.contains("gone"),
        "{before:?}"
    );
    assert_eq!(mounts("first", "erofs"), 0);

    images(&place, LAYERS).await;
    let second = node.pod("second").await;
    let imaged = second
        .start_with("app", "sleep 1000", of_image)
        .await
        .unwrap();
    assert_eq!(mounts("second", "erofs"), LAYERS);
    let after = imaged.exec(LOOK).await;
    assert_eq!(after.out, before.out);

    // It is written to as ever, and nobody else sees that.
    let write = "echo new > /data/file && rm -r /data/sub && cat /data/file; ls /data";
    assert_eq!(imaged.exec(write).await.out, "new\nfile");
    let beside = second
        .start_with("beside", "sleep 1000", of_image)
        .await
        .unwrap();
    assert_eq!(beside.exec(LOOK).await.out, before.out);
    imaged.stop(0).await.unwrap();
    imaged.remove().await.unwrap();
    assert_eq!(mounts("second", "erofs"), LAYERS);
    second.remove().await.unwrap();
    first.remove().await.unwrap();
    assert_eq!(
        node.left_after(Duration::from_secs(10)).await,
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn images_go_when_their_layers_have_gone() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let place = node.keep_layers();
    layered(&node);
    let pod = node.pod("layered").await;
    pod.start_with("app", "true", of_image).await.unwrap();
    images(&place, LAYERS).await;
    pod.remove().await.unwrap();
    let request = RemoveImageRequest {
        image: Some(spec(IMAGE)),
    };
    node.images.clone().remove_image(request).await.unwrap();
    // Whoever makes the next one looks: that of busybox is still there.
    let passwd = node
        .path()
        .join("busybox/root/etc/passwd")
        .display()
        .to_string();
    imported(&node, OTHER, &[&[&passwd, "/other"]]);
    let pod = node.pod("other").await;
    let of_other = |config: &mut ContainerConfig| config.image = Some(spec(OTHER));
    pod.start_with("app", "true", of_other).await.unwrap();
    images(&place, 2).await;
    pod.remove().await.unwrap();
}

/// The runtime under test, in `ctr`'s words.
const OURS: &str = "io.containerd.bulkhead.v2";

/// What a container of a snapshotter sees: how its root is mounted, and what is in it.
fn seen(node: &Node, snapshotter: &str, runtime: &str, more: &[&str]) -> (String, String) {
    let id = format!("of-{snapshotter}-{}", std::process::id());
    // By it other tests know that what is left of it is none of theirs.
    let group = node.group_of(&id);
    let mut words = vec!["run", "--rm", "--cgroup", &group];
    words.extend(["--snapshotter", snapshotter]);
    words.extend(more);
    words.extend(["--runtime", runtime, IMAGE, &id, "/bin/sh", "-c"]);
    let script = format!("grep ' / ' /proc/mounts; echo new > /etc/new && cat /etc/new; {LOOK}");
    words.push(&script);
    let answer = node.ctr(&words);
    assert_eq!(answer.code, 0, "{snapshotter}, {runtime}: {answer:?}");
    let (root, rest) = answer.out.split_once('\n').unwrap();
    let lines = rest.lines().map(|line| match line.contains(" drwx") {
        // The native snapshotter copies directories without their times.
        true => line.rsplit_once(' ').unwrap().0,
        false => line,
    });
    (root.to_owned(), lines.collect::<Vec<_>>().join("\n"))
}

#[tokio::test]
async fn snapshots_of_every_kind_show_what_they_show_to_runc() {
    if !in_machine() {
        return;
    }
    let node = Node::with_snapshotters().await;
    layered(&node);
    let kinds = node.snapshotters();
    let version = node.ctr(&["version"]).out;
    let mut versions = version
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Version:"));
    let first = versions.all(|own| own.trim().trim_start_matches('v').starts_with("1."));
    let wanted: &[&str] = match first {
        true => &["overlayfs", "native"],
        false => &["overlayfs", "native", "blockfile", "erofs"],
    };
    // As the CRI says that containers are of a pod; its snapshotter is one for all.
    let of = "io.kubernetes.cri.sandbox-id=of-pod";
    let kind_of = |kind: &str| format!("io.kubernetes.cri.container-type={kind}");
    let (sandbox, container) = (kind_of("sandbox"), kind_of("container"));
    let group = node.group_of("of-pod");
    let pod = [
        "run",
        "--detach",
        "--cgroup",
        &group,
        "--annotation",
        &sandbox,
        "--annotation",
        of,
    ];
    let what = ["--runtime", OURS, IMAGE, "of-pod", "true"];
    assert_eq!(node.ctr(&[&pod[..], &what].concat()).code, 0);
    let member = ["--annotation", &container, "--annotation", of];
    for kind in wanted {
        assert!(kinds.iter().any(|own| own == kind), "{kind} of {kinds:?}");
        let (_, expected) = seen(&node, kind, "io.containerd.runc.v2", &[]);
        let (root, own) = seen(&node, kind, OURS, &member);
        assert_eq!(own, expected, "{kind}");
        // What is an image already is read by the guest's own kernel.
        let shared = root.contains("/run/shares");
        assert_eq!(shared, ["overlayfs", "native"].contains(kind), "{root}");
        // A container on its own writes on its snapshot.
        let (root, own) = seen(&node, kind, OURS, &[]);
        assert_eq!(own, expected, "{kind}");
        assert_eq!(root.contains("virtiofs"), *kind != "blockfile", "{root}");
    }
    assert_eq!(node.ctr(&["task", "rm", "--force", "of-pod"]).code, 0);
    assert_eq!(node.ctr(&["container", "rm", "of-pod"]).code, 0);
}

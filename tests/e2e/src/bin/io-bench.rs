//! Measures disks and the network of a pod, and prints what it measured as JSON.
//! `cargo xtask bench --io` runs it, once for each handler and round
//! (`BULKHEAD_E2E_HANDLER`). Arguments: an OCI archive of the image that has
//! `/work.sh` in it, its name, and its files as a directory, for the other side of
//! the network.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bulkhead_e2e::cri::Device;
use bulkhead_e2e::{LoopDevice, Node, arguments, in_machine};
use serde_json::{Value, json};

/// The block volume, MiB.
const VOLUME: u64 = 256;

/// The node, as its pods see it.
const PEER: &str = "10.88.0.1";

/// How long the work may take, eleven figures of some seconds each.
const LIMIT: Duration = Duration::from_secs(300);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let argument = |position| std::env::args().nth(position).expect("three arguments");
    let (archive, image, files) = (argument(1), argument(2), argument(3));
    let node = Node::start().await;
    assert_eq!(node.ctr(&["image", "import", &archive]).code, 0);
    let mut peer = Command::new("sh")
        .arg(Path::new(&files).join("work.sh"))
        .args(["peer", node.namespace(), &files])
        .stdin(Stdio::null())
        .spawn()
        .expect("a shell");
    // Next to the writable layers, so that both are on the same disk of the host.
    let place = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let volume = LoopDevice::new(place.path(), "volume", VOLUME);

    let pod = node.pod("io").await;
    let script = format!("/bin/sh /work.sh /var/tmp /dev/volume {PEER}");
    let container = pod
        .start_with("work", &script, |config| {
            config.image.as_mut().expect("an image").image = image;
            config.devices.push(Device {
                container_path: "/dev/volume".to_owned(),
                host_path: volume.path.clone(),
                permissions: "mrw".to_owned(),
            });
        })
        .await
        .expect("the container starts");
    let monitor = in_machine().then(|| arguments(node.monitor_of(&pod)));
    container.says("stdout end", LIMIT).await;
    println!(
        "{}",
        json!({"figures": figures(&container.log()), "monitor": monitor})
    );
    pod.remove().await.expect("the pod is removed");
    peer.kill().expect("the other side ends");
    let _ = peer.wait();
}

/// Lines `stdout name value`.
fn figures(log: &str) -> Value {
    let pairs = log.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("stdout ")?.split_once(' ')?;
        Some((name.to_owned(), json!(value.trim().parse::<f64>().ok()?)))
    });
    pairs.collect::<serde_json::Map<_, _>>().into()
}

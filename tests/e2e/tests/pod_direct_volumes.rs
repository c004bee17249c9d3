//! Volumes a storage driver leaves to the guest: their disks are the guest's, and so are
//! their file systems.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead_e2e::cri::ContainerConfig;
use bulkhead_e2e::kubelet::{mount, with_volumes};
use bulkhead_e2e::{Answer, LoopDevice, Node, in_machine, program, tool};
use serde_json::{Value, json};

/// A volume as a driver has it: a disk with ext4, and where a kubelet would look for it.
struct Volume {
    disk: LoopDevice,
    path: PathBuf,
}

impl Volume {
    fn new(dir: &Path, name: &str, more: &Value) -> Self {
        let disk = LoopDevice::new(dir, name, 64);
        tool("mkfs.ext4", &["-q", &disk.path]);
        let path = dir.join(format!("{name}-mount"));
        std::fs::create_dir(&path).unwrap();
        let volume = Self { disk, path };
        let mut info = json!({
            "volume-type": "directvol", "device": volume.disk.path, "fstype": "ext4",
        });
        for (field, value) in more.as_object().unwrap() {
            info[field] = value.clone();
        }
        let added = volume.command("add", &["--mount-info", &info.to_string()]);
        assert_eq!(added.code, 0, "{added:?}");
        volume
    }

    /// `bulkhead direct-volume`, as a driver executes it.
    fn command(&self, verb: &str, more: &[&str]) -> Answer {
        let mut command = Command::new(program());
        command.args(["direct-volume", verb, "--volume-path"]);
        Answer::of(command.arg(&self.path).args(more))
    }

    fn at(&self, path: &str, readonly: bool) -> impl FnOnce(&mut ContainerConfig) {
        with_volumes(vec![mount(&self.path, path, readonly)])
    }

    fn total(&self) -> u64 {
        let stats = self.command("stats", &[]);
        let all: Value = serde_json::from_str(&stats.out).expect(&stats.err);
        assert_eq!(all["usage"][0]["unit"], 1, "{all}");
        assert_eq!(all["usage"][1]["unit"], 2, "{all}");
        all["usage"][0]["total"].as_u64().unwrap()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = self.command("remove", &[]);
    }
}

#[tokio::test]
async fn a_drivers_volume_is_mounted_by_the_guest_and_outlives_the_pod() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let group = json!({"metadata": {"fsGroup": "4321"}});
    let volume = Volume::new(node.path(), "volume", &group);
    let pod = node.pod("database").await;
    let database = pod.start_with("db", "sleep 1000", volume.at("/data", false));
    let database = database.await.unwrap();
    let mounted = database.exec("grep ' /data ' /proc/mounts").await;
    assert!(mounted.out.starts_with("/dev/vd"), "{mounted:?}");
    assert!(mounted.out.contains(" ext4 rw"), "{mounted:?}");
    // The pod's fsGroup, as a kubelet gives it to what it can reach.
    assert_eq!(
        database.exec("stat -c '%g %a' /data").await.out,
        "4321 2775"
    );
    let written = database.exec("echo kept > /data/file && sync").await;
    assert_eq!(written.code, 0, "{written:?}");
    assert_eq!(database.exec("stat -c %g /data/file").await.out, "4321");

    // Another container of the pod: the same file system, only read.
    let reader = pod.start_with("reader", "sleep 1000", volume.at("/seen", true));
    let reader = reader.await.unwrap();
    assert_eq!(reader.exec("cat /seen/file").await.out, "kept");
    assert_ne!(reader.exec("echo lost > /seen/file").await.code, 0);

    // It is nobody else's: not another pod's, and not to be mounted on the node.
    let other = node.pod("thief").await;
    let refused = other.start_with("thief", "sleep 1000", volume.at("/data", false));
    let refused = refused.await.unwrap_err();
    assert!(refused.message().contains("in use"), "{refused}");
    other.remove().await.unwrap();
    let place = node.path().join("place");
    std::fs::create_dir(&place).unwrap();
    let mount = Command::new("mount")
        .arg(&volume.disk.path)
        .arg(&place)
        .output();
    assert!(!mount.unwrap().status.success());

    pod.remove().await.unwrap();
    assert_eq!(volume.disk.users(), Vec::<String>::new());
    let place = place.display().to_string();
    tool("mount", &["-o", "ro", &volume.disk.path, &place]);
    let kept = std::fs::read_to_string(format!("{place}/file"));
    tool("umount", &[&place]);
    assert_eq!(kept.unwrap(), "kept\n");
}

#[tokio::test]
async fn a_drivers_volume_grows_while_it_is_used() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let volume = Volume::new(node.path(), "volume", &json!({}));
    let none = volume.command("stats", &[]);
    assert!(none.err.contains("no running pod"), "{none:?}");
    let pod = node.pod("database").await;
    let database = pod.start_with("db", "sleep 1000", volume.at("/data", false));
    let database = database.await.unwrap();
    let before = volume.total();
    assert!((48 << 20..64 << 20).contains(&before), "{before}");
    // Its disk has to grow first.
    let size = (128_u64 << 20).to_string();
    let early = volume.command("resize", &["--size", &size]);
    assert!(early.err.contains("has to grow"), "{early:?}");
    volume.disk.grow(128);
    let grown = volume.command("resize", &["--size", &size]);
    assert_eq!(grown.code, 0, "{grown:?}");
    let after = volume.total();
    assert!(after > 100 << 20, "{before} and then {after}");
    let filled = database
        .exec("head -c 90000000 /dev/zero > /data/file; echo $?")
        .await;
    assert_eq!(filled.out, "0", "{filled:?}");
    pod.remove().await.unwrap();
    tool("e2fsck", &["-f", "-n", &volume.disk.path]);
}

#[tokio::test]
async fn a_volume_that_can_be_no_disk_is_refused_by_name() {
    if !in_machine() {
        return;
    }
    let node = Node::start().await;
    let volume = Volume::new(node.path(), "volume", &json!({}));
    let wrong = json!({"device": "/dev/null", "fstype": "xfs"}).to_string();
    let refused = volume.command("add", &["--mount-info", &wrong]);
    assert!(refused.err.contains("xfs"), "{refused:?}");
    let wrong = json!({"device": "/dev/null", "fstype": "ext4"}).to_string();
    assert_eq!(volume.command("add", &["--mount-info", &wrong]).code, 0);
    let pod = node.pod("hopeful").await;
    let made = pod.start_with("hopeful", "sleep 1000", volume.at("/data", false));
    let refused = made.await.unwrap_err();
    assert!(refused.message().contains("/dev/null"), "{refused}");
    // The others go on.
    let fine = pod.start("fine", "sleep 1000").await;
    assert_eq!(fine.exec("echo well").await.out, "well");
    pod.remove().await.unwrap();
}

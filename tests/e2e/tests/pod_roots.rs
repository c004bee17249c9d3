//! Root filesystems that are block devices or images, as block snapshotters give
//! them: none is installed here, so that their mounts are replayed against the
//! real shim.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};

use bulkhead_e2e::replay::{
    Shim, creation, crio_annotations, crio_bundle, fifo, limit, reader, spec,
};
use bulkhead_e2e::{LoopDevice, busybox_image, in_machine, tool};
use containerd_shim_protos::api::{CreateTaskRequest, Mount};
use rustix::fs::{Mode, OFlags};
use serde_json::json;

/// A place for a pod, or for a container without one.
struct Place {
    dir: tempfile::TempDir,
    id: String,
}

impl Place {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        busybox_image(dir.path());
        Self {
            dir,
            id: format!("{name}-{}", std::process::id()),
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The files of the busybox image, as an image of a file system.
    fn image(&self, kind: &str) -> PathBuf {
        let root = self.path().join("root").display().to_string();
        let image = self.path().join(format!("root.{kind}"));
        let path = image.display().to_string();
        match kind {
            "erofs" => tool("mkfs.erofs", &["--quiet", &path, &root]),
            _ => {
                let made = std::fs::File::create_new(&image).unwrap();
                made.set_len(32 << 20).unwrap();
                tool("mkfs.ext4", &["-q", "-d", &root, &path]);
            }
        }
        image
    }
}

/// How a container ended, and what it said.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    code: u32,
    said: String,
}

/// Type, source and options of a snapshot's mount.
type Snapshot<'a> = (&'a str, &'a str, &'a [&'a str]);

/// Containers on such snapshots, with or without a pod.
struct Roots {
    place: Place,
    shim: Shim,
}

impl Roots {
    async fn new(place: Place, bundle: &Path) -> Self {
        let shim = Shim::start(bundle, &place.id).await;
        Self { place, shim }
    }

    /// With a pod without containers.
    async fn with_pod(name: &str) -> Self {
        let place = Place::new(name);
        let id = place.id.clone();
        let root = place.path().join("root");
        let own = spec(&root, "pause", &crio_annotations("sandbox", &id));
        let bundle = crio_bundle(place.path(), &id, &own);
        let roots = Self::new(place, &bundle).await;
        let create = creation(roots.place.path(), &id, &bundle);
        roots.shim.task.create(limit(), &create).await.unwrap();
        roots.shim.begin(&id, "").await;
        roots
    }

    fn image(&self, kind: &str) -> PathBuf {
        self.place.image(kind)
    }

    /// Makes a container of the pod on such a snapshot.
    async fn create(
        &self,
        name: &str,
        script: &str,
        mount: Snapshot<'_>,
    ) -> ttrpc::Result<std::thread::JoinHandle<String>> {
        let annotations = crio_annotations("container", &self.place.id);
        let own = spec(Path::new("rootfs"), script, &annotations);
        let bundle = crio_bundle(self.place.path(), name, &own);
        self.create_in(&bundle, name, mount).await
    }

    async fn create_in(
        &self,
        bundle: &Path,
        name: &str,
        (kind, source, options): Snapshot<'_>,
    ) -> ttrpc::Result<std::thread::JoinHandle<String>> {
        let out = fifo(&bundle.join("stdout"));
        let said = reader(out.clone());
        let create = CreateTaskRequest {
            rootfs: vec![Mount {
                type_: kind.to_owned(),
                source: source.to_owned(),
                options: options.iter().map(|&option| option.to_owned()).collect(),
                ..Default::default()
            }],
            stdout: out.clone(),
            ..creation(self.place.path(), name, bundle)
        };
        let created = self.shim.task.create(limit(), &create).await;
        if created.is_err() {
            // Who may never have opened it: the reader is let go.
            let flags = OFlags::WRONLY | OFlags::NONBLOCK;
            let _ = rustix::fs::open(&out, flags, Mode::empty());
        }
        created.map(|_| said)
    }

    /// Runs a container on such a snapshot to its end.
    async fn run(&self, name: &str, script: &str, mount: Snapshot<'_>) -> Ended {
        let said = self.create(name, script, mount).await.unwrap();
        self.shim.begin(name, "").await;
        let code = self.shim.wait(name, "").await;
        self.shim.delete(name, "").await;
        Ended {
            code,
            said: said.join().unwrap(),
        }
    }

    /// Ends the pod, and the process.
    async fn remove(self) {
        let id = &self.place.id;
        self.shim.kill(id, 9, false).await.unwrap();
        self.shim.wait(id, "").await;
        self.shim.delete(id, "").await;
        self.shim.shut_down(id).await;
    }
}

/// A file of an ext4 image that nobody has mounted.
fn inside(image: &Path, path: &str) -> String {
    let output = std::process::Command::new("debugfs")
        .args(["-R", &format!("cat {path}")])
        .arg(image)
        .output()
        .expect("debugfs is there: `apt install e2fsprogs`");
    String::from_utf8(output.stdout).unwrap()
}

/// Was an ext4 image left as an unmount leaves it?
fn is_clean(image: &Path) -> bool {
    let output = std::process::Command::new("dumpe2fs")
        .arg("-h")
        .arg(image)
        .output()
        .expect("dumpe2fs is there: `apt install e2fsprogs`");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("has_journal"), "{text}");
    !text.contains("needs_recovery")
}

const WRITES: &str = "echo kept > /marker && cat /marker && stat -f -c %T /";

#[tokio::test(flavor = "multi_thread")]
async fn a_writable_block_snapshot_is_the_root_itself() {
    if !in_machine() {
        return;
    }
    let pod = Roots::with_pod("block-root").await;
    // As the devmapper snapshotter gives a container's own snapshot.
    let image = pod.image("ext4");
    let disk = LoopDevice::over(&image);
    let mount = ("ext4", disk.path.as_str(), &["discard"][..]);
    let ended = pod.run("first", WRITES, mount).await;
    assert_eq!((ended.code, ended.said.as_str()), (0, "kept\next2/ext3\n"));
    assert_eq!(disk.users(), Vec::<String>::new());
    assert_eq!(inside(&image, "/marker"), "kept\n");
    assert!(is_clean(&image));
    // As blockfile gives it: a file. What was written is there.
    let path = image.display().to_string();
    let mount = ("ext4", path.as_str(), &["rw", "loop"][..]);
    let ended = pod.run("second", "cat /marker", mount).await;
    assert_eq!((ended.code, ended.said.as_str()), (0, "kept\n"));
    pod.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_in_a_machine_of_its_own_leaves_a_clean_snapshot() {
    if !in_machine() {
        return;
    }
    // As `ctr run` makes it: there is no pod.
    let place = Place::new("single-root");
    let image = place.image("ext4");
    let id = place.id.clone();
    let own = spec(Path::new("rootfs"), WRITES, &json!({}));
    let bundle = crio_bundle(place.path(), &id, &own);
    let roots = Roots::new(place, &bundle).await;
    let path = image.display().to_string();
    let mount = ("ext4", path.as_str(), &["rw"][..]);
    let said = roots.create_in(&bundle, &id, mount).await.unwrap();
    roots.shim.begin(&id, "").await;
    assert_eq!(roots.shim.wait(&id, "").await, 0);
    roots.shim.delete(&id, "").await;
    assert_eq!(inside(&image, "/marker"), "kept\n");
    assert!(is_clean(&image));
    roots.shim.shut_down(&id).await;
    assert_eq!(said.join().unwrap(), "kept\next2/ext3\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_block_snapshot_stays_as_it_was_below_what_is_written() {
    if !in_machine() {
        return;
    }
    let pod = Roots::with_pod("image-root").await;
    for kind in ["ext4", "erofs"] {
        let image = pod.image(kind);
        let before = std::fs::read(&image).unwrap();
        let path = image.display().to_string();
        let mount = (kind, path.as_str(), &["ro", "loop"][..]);
        let ended = pod.run(kind, WRITES, mount).await;
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.said.starts_with("kept\n"), "{ended:?}");
        assert_eq!(std::fs::read(&image).unwrap(), before, "{kind}");
    }
    pod.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_root_is_refused_and_the_pod_goes_on() {
    if !in_machine() {
        return;
    }
    let pod = Roots::with_pod("odd-root").await;
    let image = pod.image("ext4").display().to_string();
    let empty = LoopDevice::new(pod.place.path(), "empty", 1);
    for (name, mount, word) in [
        ("xfs", ("xfs", image.as_str(), &["rw"][..]), "ext4"),
        (
            "option",
            ("ext4", &image, &["journal_dev=0x700"]),
            "journal_dev",
        ),
        ("device", ("ext4", "/dev/null", &[]), "/dev/null"),
        ("absent", ("ext4", "/none/there", &[]), "/none/there"),
        // The guest's kernel says so, and its device is given back.
        ("nothing", ("ext4", &empty.path, &[]), "mounted"),
    ] {
        let refused = pod.create(name, "true", mount).await.err().unwrap();
        assert!(refused.to_string().contains(word), "{name}: {refused}");
    }
    assert_eq!(empty.users(), Vec::<String>::new());
    let mount = ("ext4", image.as_str(), &["rw"][..]);
    let said = pod.create("holder", "sleep 1000", mount).await.unwrap();
    let taken = pod.create("second", "true", mount).await.err().unwrap();
    assert!(taken.to_string().contains("no other user"), "{taken}");
    pod.remove().await;
    assert_eq!(said.join().unwrap(), "");
}

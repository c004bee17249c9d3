//! One image with much of Debian in it, made once for all tests and runs.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

/// What the tests run.
const PACKAGES: &str = "bpftool,busybox-static,crun,gcc,iproute2,iputils-ping,kmod,libc6-dev,make,\
                        nginx-light,postgresql,procps,python3-minimal,libpython3-stdlib,\
                        redis-server,stress-ng,strace,systemd-sysv,curl,attr";

/// Debian's release; part of the image's name in the cache.
const SUITE: &str = "bookworm";

/// Where the image and its converted layer are kept between runs.
fn cache() -> PathBuf {
    let hash = hex::encode(Sha256::digest(format!("1 {SUITE} {PACKAGES}")));
    let base = std::env::var_os("BULKHEAD_TEST_CACHE").map_or_else(
        || {
            let home = std::env::var_os("HOME").unwrap();
            Path::new(&home).join(".cache/bulkhead-tests")
        },
        PathBuf::from,
    );
    base.join(&hash[..16])
}

/// Reference of the image, and the store to convert it into. The first caller
/// makes the image (half a minute); others wait for it.
pub(crate) fn image() -> (String, PathBuf) {
    let dir = cache();
    std::fs::create_dir_all(dir.join("store")).unwrap();
    let lock = File::create(dir.join("lock")).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    let layout = dir.join("image");
    if !layout.exists() {
        make(&dir, &layout);
    }
    (format!("oci:{}", layout.display()), dir.join("store"))
}

fn make(dir: &Path, layout: &Path) {
    let half = dir.join("half");
    let _ = std::fs::remove_dir_all(&half);
    let blobs = half.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let tar = blobs.join("layer");
    let output = Command::new("mmdebstrap")
        .args(["--variant=apt", "--quiet", "--format=tar"])
        .arg(format!("--include={PACKAGES}"))
        .args([
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/man/*",
        ])
        .args(["--dpkgopt=path-exclude=/usr/share/locale/*", SUITE])
        .arg(&tar)
        .output()
        .expect("mmdebstrap is there: `apt install mmdebstrap`");
    assert!(output.status.success(), "{output:?}");
    let layer = place(&tar);
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["bash"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    });
    let config = document(&blobs, &config);
    let kind = |name: &str| format!("application/vnd.oci.image.{name}");
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": config.descriptor(&kind("config.v1+json")),
        "layers": [layer.descriptor(&kind("layer.v1.tar"))],
    });
    let manifest = document(&blobs, &manifest);
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [manifest.descriptor(&kind("manifest.v1+json"))],
    });
    std::fs::write(half.join("index.json"), index.to_string()).unwrap();
    std::fs::write(half.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    std::fs::rename(half, layout).unwrap();
}

struct Blob {
    digest: String,
    size: u64,
}

impl Blob {
    fn descriptor(&self, kind: &str) -> serde_json::Value {
        serde_json::json!({"mediaType": kind, "digest": self.digest, "size": self.size})
    }
}

fn document(blobs: &Path, content: &serde_json::Value) -> Blob {
    let path = blobs.join("document");
    std::fs::write(&path, content.to_string()).unwrap();
    place(&path)
}

/// Renames a file after its digest.
fn place(path: &Path) -> Blob {
    let mut file = File::open(path).unwrap();
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        size += count as u64;
    }
    let hex = hex::encode(hash.finalize());
    std::fs::rename(path, path.with_file_name(&hex)).unwrap();
    Blob {
        digest: format!("sha256:{hex}"),
        size,
    }
}

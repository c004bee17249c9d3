//! A payload that is none, for tests.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Fills a directory with a small payload.
pub(crate) fn payload(dir: &Path, mark: &str) {
    let guest = dir.join("guest/guests/tuned-1");
    std::fs::create_dir_all(&guest).unwrap();
    for name in ["kernel", "initramfs", "manifest.json"] {
        std::fs::write(guest.join(name), format!("{name} {mark}")).unwrap();
    }
    for name in ["bulkhead", "containerd-shim-bulkhead-v2"] {
        let path = dir.join(name);
        std::fs::write(&path, format!("{name} {mark}")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
}

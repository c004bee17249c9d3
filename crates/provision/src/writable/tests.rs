use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use super::*;

const SIZE: u64 = 1 << 30;

struct Bench {
    dir: tempfile::TempDir,
    kept: Kept,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::at(&dir.path().join("kept")).unwrap();
        Self { dir, kept }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn make(&self, name: &str, bytes: u64) -> PathBuf {
        disk(
            Some(&self.kept),
            named(&self.path(name)),
            &self.path(name),
            bytes,
        )
        .unwrap();
        self.path(name)
    }

    fn kept(&self) -> usize {
        std::fs::read_dir(self.path("kept")).unwrap().count()
    }
}

fn sound(disk: &Path) -> bool {
    let mut check = Command::new("/sbin/e2fsck");
    check.args(["-f", "-n"]).arg(disk);
    let output = check.output().expect("apt install e2fsprogs");
    output.status.success()
}

#[test]
fn the_second_disk_is_a_copy_of_the_first() {
    let bench = Bench::new();
    let first = bench.make("first", SIZE);
    let second = bench.make("second", SIZE);
    assert!(sound(&first) && sound(&second));
    assert_eq!(bench.kept(), 1);
    assert_eq!(uuid(&first), uuid(&second), "formatted again");
    let stat = std::fs::metadata(second).unwrap();
    assert_eq!(stat.len(), SIZE);
    assert!(stat.blocks() * 512 < 4 << 20, "holes were filled");
}

/// The superblock is 1024 bytes into the disk, `s_uuid` 0x68 into it.
fn uuid(disk: &Path) -> Vec<u8> {
    let mut uuid = vec![0; 16];
    let disk = std::fs::File::open(disk).unwrap();
    disk.read_exact_at(&mut uuid, 1024 + 0x68).unwrap();
    uuid
}

#[test]
fn sizes_do_not_mix() {
    let bench = Bench::new();
    bench.make("first", SIZE);
    let other = bench.make("other", 2 * SIZE);
    assert!(sound(&other));
    assert_eq!(std::fs::metadata(other).unwrap().len(), 2 * SIZE);
    assert_eq!(bench.kept(), 2);
}

#[test]
fn a_kept_disk_that_is_none_is_passed_over() {
    let bench = Bench::new();
    let name = bench.path("kept").join(format!("ext4-1-{SIZE}"));
    std::fs::write(&name, "short").unwrap();
    assert!(sound(&bench.make("first", SIZE)));

    // The right size, and full where an empty disk is a hole.
    std::fs::remove_file(&name).unwrap();
    let full = std::fs::File::create(&name).unwrap();
    full.write_all_at(&vec![7; 6 << 20], 0).unwrap();
    full.set_len(SIZE).unwrap();
    assert!(sound(&bench.make("second", SIZE)));
}

#[test]
fn a_disk_without_a_name_is_in_no_directory() {
    let bench = Bench::new();
    let dir = bench.path("disks");
    std::fs::create_dir(&dir).unwrap();
    let made = disk(Some(&bench.kept), unnamed(&dir), &dir, SIZE).unwrap();
    assert!(sound(Path::new(&format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        made.as_raw_fd()
    ))));
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    assert_eq!(rustix::fs::fstat(&made).unwrap().st_nlink, 0);
}

#[test]
fn the_place_that_cannot_hold_a_disk_is_named() {
    let bench = Bench::new();
    let nowhere = bench.path("nowhere");
    let error = disk(None, unnamed(&nowhere), &nowhere, SIZE).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("nowhere`: "), "{cause}");
}

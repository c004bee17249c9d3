//! Block devices of the host: loop devices over files.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device, given back at the end.
#[derive(Debug)]
pub struct LoopDevice {
    file: PathBuf,
    /// `/dev/loopN`.
    pub path: String,
}

impl LoopDevice {
    /// A device of `mebibytes` of nothing, over the new file `dir/name`.
    #[must_use]
    pub fn new(dir: &Path, name: &str, mebibytes: u64) -> Self {
        let file = dir.join(name);
        let made = std::fs::File::create_new(&file).unwrap();
        made.set_len(mebibytes << 20).unwrap();
        Self::over(&file)
    }

    /// A device over a file.
    #[must_use]
    pub fn over(file: &Path) -> Self {
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output()
            .expect("losetup is there: `apt install mount`");
        assert!(output.status.success(), "{output:?}");
        Self {
            file: file.to_owned(),
            path: String::from_utf8(output.stdout).unwrap().trim().to_owned(),
        }
    }

    /// It has so many mebibytes from now on, as those who have it open see.
    pub fn grow(&self, mebibytes: u64) {
        let file = std::fs::File::options().write(true).open(&self.file);
        file.unwrap().set_len(mebibytes << 20).unwrap();
        crate::tool("losetup", &["--set-capacity", &self.path]);
    }

    /// Its numbers.
    #[must_use]
    pub fn numbers(&self) -> (u32, u32) {
        let device = std::fs::metadata(&self.path).unwrap().rdev();
        (rustix::fs::major(device), rustix::fs::minor(device))
    }

    /// What is on the disk: `length` bytes at `offset`.
    #[must_use]
    pub fn read(&self, offset: u64, length: usize) -> String {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; length];
        let file = std::fs::File::open(&self.file).unwrap();
        file.read_exact_at(&mut bytes, offset).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Processes that have the device open, by whatever name.
    #[must_use]
    pub fn users(&self) -> Vec<String> {
        let own = std::fs::metadata(&self.path).unwrap().rdev();
        let mut users = Vec::new();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let files = std::fs::read_dir(process.path().join("fd"));
            let mut files = files.into_iter().flatten().flatten();
            let holds = files.any(|file| {
                std::fs::metadata(file.path())
                    .is_ok_and(|stat| stat.rdev() == own && stat.mode() & 0o170_000 == 0o060_000)
            });
            if holds {
                users.push(process.file_name().to_string_lossy().into_owned());
            }
        }
        users
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .args(["--detach", &self.path])
            .status();
    }
}

//! Which processes run a version's programs.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;

use crate::places;
use crate::tree::{FileError, Tree};
use crate::version::{Manifest, Version};

/// Most arguments of a process looked at, bytes.
const ARGUMENTS_LIMIT: usize = 4096;

/// Behind the path of a file that was removed. proc_pid_exe(5).
const DELETED: &str = " (deleted)";

/// A process that runs a program of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// Its process id.
    pub pid: u32,
    /// The pod it runs, by the runtime's id, when it is a shim.
    pub pod: Option<String>,
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.pod {
            Some(pod) => write!(f, "{} (pod {pod})", self.pid),
            None => write!(f, "{}", self.pid),
        }
    }
}

/// Processes that run a program of a version. They are known by the file they
/// execute, whatever it is called in their view of the machine; one that was
/// replaced or removed since, by its path.
///
/// # Errors
/// [`FileError`] when `proc` or the version cannot be read.
pub(crate) fn users(tree: &Tree, proc: &Path, version: &Version) -> Result<Vec<User>, FileError> {
    let dir = places::version(version);
    let mut files = HashSet::new();
    let programs = Manifest::read(tree, version)
        .map(|manifest| manifest.files)
        .unwrap_or_default();
    for entry in programs.iter().filter(|entry| entry.mode & 0o111 != 0) {
        if let Some(file) = tree.open_file(&dir.join(&entry.path))? {
            let meta = file.metadata().map_err(failed(&dir.join(&entry.path)))?;
            files.insert((meta.dev(), meta.ino()));
        }
    }
    let roots = [dir.clone(), tree.outside(&dir)];
    let mut found = Vec::new();
    for entry in std::fs::read_dir(proc).map_err(failed(proc))?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // One that ended meanwhile, or a kernel thread, executes nothing.
        let exe = entry.path().join("exe");
        let same_file =
            std::fs::metadata(&exe).is_ok_and(|meta| files.contains(&(meta.dev(), meta.ino())));
        // The path alone says nothing: a container may have the same one.
        let replaced = || {
            let target = std::fs::read_link(&exe).unwrap_or_default();
            let gone = target.to_string_lossy().ends_with(DELETED);
            gone && roots.iter().any(|root| target.starts_with(root))
        };
        if (same_file || replaced()) && !makes_layers(&entry.path()) {
            found.push(User {
                pid,
                pod: pod(&entry.path()),
            });
        }
    }
    found.sort_by_key(|user| user.pid);
    Ok(found)
}

/// Waits until processes have ended, as long as that: a pod's shim outlives the
/// answer that the pod is gone by a moment. pidfd_open(2).
pub(crate) fn wait(users: &[User], limit: Duration) {
    let deadline = Instant::now() + limit;
    for user in users {
        let pid = i32::try_from(user.pid).ok().and_then(Pid::from_raw);
        // One that cannot be opened has ended.
        let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let left = deadline.saturating_duration_since(Instant::now());
        if let (Some(process), Ok(left)) = (process, Timespec::try_from(left)) {
            let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left));
        }
    }
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> FileError {
    let path: PathBuf = path.to_owned();
    move |source| FileError {
        path: path.clone(),
        what: "looked at",
        source,
    }
}

/// Nobody waits for it, and what it makes goes with the rest.
fn makes_layers(process: &Path) -> bool {
    let bytes = cmdline(process).unwrap_or_default();
    bytes.split(|byte| *byte == 0).next() == Some(bulkhead_config::LAYERS_PROGRAM.as_bytes())
}

fn cmdline(process: &Path) -> Option<Vec<u8>> {
    let mut bytes = std::fs::read(process.join("cmdline")).ok()?;
    bytes.truncate(ARGUMENTS_LIMIT);
    Some(bytes)
}

/// The value of a shim's `-id`.
fn pod(process: &Path) -> Option<String> {
    let bytes = cmdline(process)?;
    let mut words = bytes
        .split(|byte| *byte == 0)
        .skip_while(|word| *word != b"-id");
    let id = std::str::from_utf8(words.nth(1)?).ok()?;
    bulkhead_protocol::name::check(id)
        .is_ok()
        .then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::payload::Payload;
    use crate::testing::payload;

    #[test]
    fn a_process_is_found_by_the_file_it_runs_even_when_that_was_replaced() {
        let dir = tempfile::tempdir().unwrap();
        payload(dir.path(), "one");
        std::fs::copy("/bin/sleep", dir.path().join(places::SHIM)).unwrap();
        let mut opened = Payload::directory(dir.path(), "1.0").unwrap();
        let root = tempfile::tempdir().unwrap();
        let tree = Tree::open(root.path()).unwrap();
        let version = opened.manifest().version.clone();
        let place = places::version(&version);
        opened.copy_to(&tree, &place).unwrap();
        let shim = tree.outside(&place).join(places::SHIM);
        let found = || users(&tree, Path::new("/proc"), &version).unwrap();
        assert_eq!(found(), []);
        let mut child = Command::new(&shim)
            .arg("1000")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        assert_eq!(
            found().iter().map(|user| user.pid).collect::<Vec<_>>(),
            [child.id()]
        );
        tree.remove(&place.join(places::SHIM)).unwrap();
        let running = found();
        assert_eq!(running.len(), 1);
        let start = Instant::now();
        wait(&running, Duration::from_millis(50));
        assert!(start.elapsed() >= Duration::from_millis(50));
        child.kill().unwrap();
        wait(&running, Duration::from_secs(60));
        assert!(start.elapsed() < Duration::from_secs(50));
        child.wait().unwrap();
        assert_eq!(found(), []);
    }

    #[test]
    fn who_makes_images_of_layers_is_told_from_the_arguments() {
        let dir = tempfile::tempdir().unwrap();
        let says = |words: &[u8]| {
            std::fs::write(dir.path().join("cmdline"), words).unwrap();
            makes_layers(dir.path())
        };
        assert!(says(b"bulkhead-layers\0/opt\0"));
        assert!(!says(b"shim\0bulkhead-layers\0"));
        assert!(!says(b""));
    }

    #[test]
    fn the_pod_is_told_from_the_arguments() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("cmdline"),
            b"shim\0-namespace\0n\0-id\0abc\0serve\0",
        )
        .unwrap();
        assert_eq!(pod(dir.path()).as_deref(), Some("abc"));
        std::fs::write(dir.path().join("cmdline"), b"shim\0-id\0\x1b[31m\0").unwrap();
        assert_eq!(pod(dir.path()), None);
    }
}

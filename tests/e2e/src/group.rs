//! Control groups as the kubelet makes them.

use std::path::{Path, PathBuf};

use crate::{booted_by_systemd, remove_cgroup, tool};

/// Where systemd looks for units that are there until the next boot.
const UNITS: &str = "/run/systemd/system";

/// The group the kubelet makes for a pod, with its limit.
#[derive(Debug)]
pub struct PodGroup {
    name: String,
    dir: PathBuf,
}

/// Gives a control group of the host a memory limit, bytes.
pub fn bound(group: &Path, memory: u64) {
    let files = ["memory.max", "memory.limit_in_bytes"];
    let file = files.iter().find(|file| group.join(file).exists());
    let file = file.expect("the host counts memory");
    std::fs::write(group.join(file), memory.to_string()).expect("a limit is set");
}

impl PodGroup {
    /// A group of this many bytes of memory; no other test of this program has as
    /// many.
    #[must_use]
    pub fn make(memory: u64) -> Self {
        match booted_by_systemd() {
            true => Self::slice(memory),
            false => Self::directory(memory),
        }
    }

    fn slice(memory: u64) -> Self {
        let name = format!("bht{}_{memory}.slice", std::process::id());
        let unit = format!("[Slice]\nMemoryMax={memory}\n");
        std::fs::write(Path::new(UNITS).join(&name), unit).unwrap();
        tool("systemctl", &["daemon-reload"]);
        tool("systemctl", &["start", &name]);
        let dir = Path::new("/sys/fs/cgroup").join(&name);
        Self { name, dir }
    }

    fn directory(memory: u64) -> Self {
        let name = format!("bht-{}-{memory}", std::process::id());
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let root = match unified {
            true => "/sys/fs/cgroup",
            false => "/sys/fs/cgroup/memory",
        };
        if unified {
            std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory").unwrap();
        }
        let dir = Path::new(root).join(&name);
        std::fs::create_dir(&dir).unwrap();
        bound(&dir, memory);
        Self { name, dir }
    }

    /// Its path below the hierarchies' roots.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives it another limit, bytes.
    pub fn bound(&self, memory: u64) {
        bound(&self.dir, memory);
    }

    /// Whoever makes the host's groups reads its configuration again, and puts them
    /// into the order it knows.
    pub fn manager_reloads(&self) {
        if booted_by_systemd() {
            tool("systemctl", &["daemon-reload"]);
        }
    }

    /// Is the memory of each group in it counted?
    #[must_use]
    pub fn counts_memory(&self) -> bool {
        let files = ["memory.current", "memory.usage_in_bytes"];
        let counts = |dir: &PathBuf| files.iter().any(|file| dir.join(file).exists());
        self.children().iter().all(counts)
    }

    /// Groups in it.
    #[must_use]
    pub fn children(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.dir).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.is_dir()).collect()
    }

    /// Processes in them.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let read = |dir: PathBuf| std::fs::read_to_string(dir.join("cgroup.procs")).unwrap();
        let lists: Vec<_> = self.children().into_iter().map(read).collect();
        let numbers = lists.iter().flat_map(|list| list.lines());
        numbers.map(|pid| pid.parse().unwrap()).collect()
    }
}

impl Drop for PodGroup {
    fn drop(&mut self) {
        for dir in self.children() {
            let _ = std::fs::remove_dir(dir);
        }
        if booted_by_systemd() {
            tool("systemctl", &["stop", &self.name]);
            let _ = std::fs::remove_file(Path::new(UNITS).join(&self.name));
        }
        remove_cgroup(&self.name);
    }
}

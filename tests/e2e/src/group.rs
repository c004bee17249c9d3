//! Control groups as the kubelet makes them.

use std::path::{Path, PathBuf};

use crate::remove_cgroup;

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
        remove_cgroup(&self.name);
    }
}

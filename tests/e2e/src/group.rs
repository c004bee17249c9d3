//! Control groups as the kubelet makes them.

use std::path::{Path, PathBuf};

use crate::remove_cgroup;

/// The group the kubelet makes for a pod, with its limit.
#[derive(Debug)]
pub struct PodGroup {
    name: String,
    dir: PathBuf,
    file: &'static str,
}

impl PodGroup {
    /// A group of this many bytes of memory; no other test of this program has as
    /// many.
    #[must_use]
    pub fn make(memory: u64) -> Self {
        let name = format!("bht-{}-{memory}", std::process::id());
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let (root, file) = match unified {
            true => ("/sys/fs/cgroup", "memory.max"),
            false => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        };
        if unified {
            std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory").unwrap();
        }
        let dir = Path::new(root).join(&name);
        std::fs::create_dir(&dir).unwrap();
        let group = Self { name, dir, file };
        group.bound(memory);
        group
    }

    /// Its path below the hierarchies' roots.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives it another limit, bytes.
    pub fn bound(&self, memory: u64) {
        std::fs::write(self.dir.join(self.file), memory.to_string()).unwrap();
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

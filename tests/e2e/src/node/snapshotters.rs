//! A node whose containerd has every snapshotter it can have here.

use std::path::Path;

use super::{Node, containerd};
use crate::tool;

/// Bytes of an empty block snapshot.
const SCRATCH: u64 = 64 << 20;

/// containerd 1.6 has no such plugin, and no use for its settings.
fn blockfile(dir: &Path) -> String {
    format!(
        "[plugins.\"io.containerd.snapshotter.v1.blockfile\"]\n  scratch_file = \"{}\"\n  \
         fs_type = \"ext4\"\n  mount_options = []\n",
        dir.join("scratch").display()
    )
}

impl Node {
    /// Starts containerd with all of them.
    pub async fn with_snapshotters() -> Self {
        Self::start_with(|dir, namespace| {
            let scratch = dir.join("scratch");
            let made = std::fs::File::create_new(&scratch).unwrap();
            made.set_len(SCRATCH).unwrap();
            let scratch = scratch.display().to_string();
            tool("mkfs.ext4", &["-q", "-E", "nodiscard", &scratch]);
            containerd::configure(dir);
            let config = dir.join("config.toml");
            let own = std::fs::read_to_string(&config).unwrap();
            std::fs::write(config, own + "\n" + &blockfile(dir)).unwrap();
            Some(containerd::spawn(dir, namespace))
        })
        .await
    }

    /// Those that work.
    #[must_use]
    pub fn snapshotters(&self) -> Vec<String> {
        let plugins = self.ctr(&["plugins", "ls"]);
        let lines = plugins.out.lines();
        let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
        let own = words.filter(|words| {
            words.first() == Some(&"io.containerd.snapshotter.v1") && words.last() == Some(&"ok")
        });
        own.map(|words| words[1].to_owned()).collect()
    }
}

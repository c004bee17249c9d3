//! A pod's directory as the kubelet lays it out, with the mounts it makes.

use std::path::{Path, PathBuf};

use k8s_cri::v1::{ContainerConfig, Mount};

use crate::tool;

/// `…/pods/UID` of one pod. Its mounts end with it; it has to be filled before
/// the node is started, whose mounts are a copy of the host's.
#[derive(Debug)]
pub struct PodDir {
    mounted: Vec<PathBuf>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl PodDir {
    /// That of the pod with this UID.
    #[must_use]
    pub fn new(uid: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            mounted: Vec::new(),
            path: dir.path().join("pods").join(uid),
            _dir: dir,
        }
    }

    /// A volume on disk.
    #[must_use]
    pub fn volume(&self, plugin: &str, name: &str) -> PathBuf {
        let plugin = format!("kubernetes.io~{plugin}");
        let path = self.path.join("volumes").join(plugin).join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// A volume that is a tmpfs with these options.
    pub fn tmpfs(&mut self, plugin: &str, name: &str, options: &str) -> PathBuf {
        self.mounted(plugin, name, "tmpfs", options)
    }

    /// A volume of huge pages with these options.
    pub fn huge_pages(&mut self, name: &str, options: &str) -> PathBuf {
        self.mounted("empty-dir", name, "hugetlbfs", options)
    }

    /// A directory of the host whose mounts others may be told of.
    pub fn shared(&mut self, name: &str) -> PathBuf {
        let path = self.path.join("host").join(name);
        std::fs::create_dir_all(&path).unwrap();
        let at = path.display().to_string();
        tool("mount", &["--bind", &at, &at]);
        tool("mount", &["--make-shared", &at]);
        self.mounted.push(path.clone());
        path
    }

    /// Mounts a tmpfs with this file in it on the host.
    pub fn mounts(&mut self, at: &Path, file: &str) {
        tool(
            "mount",
            &["-t", "tmpfs", "tmpfs", &at.display().to_string()],
        );
        self.mounted.push(at.to_owned());
        std::fs::write(at.join(file), file).unwrap();
    }

    /// Takes the last mount away.
    pub fn unmounts(&mut self) {
        let at = self.mounted.pop().unwrap();
        tool("umount", &[&at.display().to_string()]);
    }

    fn mounted(&mut self, plugin: &str, name: &str, kind: &str, options: &str) -> PathBuf {
        let path = self.volume(plugin, name);
        let at = path.display().to_string();
        tool("mount", &["-t", kind, "-o", options, kind, &at]);
        self.mounted.push(path.clone());
        path
    }

    /// Puts a new generation of files into a volume and takes the old away, in
    /// the order of the kubelet's pkg/volume/util/atomic_writer.go.
    pub fn exchange(volume: &Path, generation: &str, files: &[(&str, &str)]) {
        use std::os::unix::fs::symlink;
        let data = volume.join("..data");
        let old = std::fs::read_link(&data).ok();
        let dir = volume.join(generation);
        std::fs::create_dir(&dir).unwrap();
        for (name, text) in files {
            std::fs::write(dir.join(name), text).unwrap();
        }
        symlink(generation, volume.join("..data_tmp")).unwrap();
        std::fs::rename(volume.join("..data_tmp"), &data).unwrap();
        for (name, _) in files {
            let link = volume.join(name);
            if link.symlink_metadata().is_err() {
                symlink(Path::new("..data").join(name), link).unwrap();
            }
        }
        let Some(old) = old else { return };
        for entry in std::fs::read_dir(volume.join(&old)).unwrap() {
            let name = entry.unwrap().file_name();
            if !files.iter().any(|(own, _)| name == *own) {
                std::fs::remove_file(volume.join(name)).unwrap();
            }
        }
        std::fs::remove_dir_all(volume.join(old)).unwrap();
    }

    /// A part of a volume, as a container with `subPath` is given it.
    pub fn sub_path(&mut self, volume: &Path, part: &str) -> PathBuf {
        let source = volume.join(part);
        std::fs::create_dir_all(&source).unwrap();
        let name = volume.file_name().unwrap();
        let number = self.mounted.len().to_string();
        let path = self.path.join("volume-subpaths").join(name);
        let path = path.join("app").join(number);
        std::fs::create_dir_all(&path).unwrap();
        let (from, at) = (source.display().to_string(), path.display().to_string());
        tool("mount", &["--bind", &from, &at]);
        self.mounted.push(path.clone());
        path
    }
}

impl Drop for PodDir {
    fn drop(&mut self) {
        for path in self.mounted.iter().rev() {
            let at = path.display().to_string();
            let _ = std::process::Command::new("umount")
                .args(["-l", &at])
                .status();
        }
    }
}

/// A volume of a container.
#[must_use]
pub fn mount(path: &Path, at: &str, readonly: bool) -> Mount {
    Mount {
        container_path: at.into(),
        host_path: path.display().to_string(),
        readonly,
        ..Default::default()
    }
}

/// Gives a container its volumes.
pub fn with_volumes(mounts: Vec<Mount>) -> impl FnOnce(&mut ContainerConfig) {
    |config| config.mounts = mounts
}

//! Debian's cloud kernel, and the modules a sandbox needs in the order they load.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::package::Package;
use crate::{Error, Phase, Progress, Result};

/// The package that always names the newest.
pub(crate) const META: &str = "linux-image-cloud-amd64";

/// Modules a sandbox wants; those built in are skipped, those they need come first.
pub(crate) const MODULES: [&str; 21] = [
    "virtio_mmio",
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "erofs",
    "ext4",
    "overlay",
    "fuse",
    "virtiofs",
    "loop",
    "tun",
    "veth",
    "bridge",
    "dummy",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_compat",
];

/// A kernel image and its modules in load order.
pub(crate) struct DistroKernel {
    pub(crate) image: PathBuf,
    pub(crate) modules: Vec<PathBuf>,
}

/// The real package behind the meta package.
pub(crate) fn package(meta: &str) -> Result<Package> {
    let found = Package::find(meta)?;
    let real = found
        .dependency("linux-image-")
        .ok_or_else(|| Error::NoPackage {
            package: format!("{meta}'s kernel"),
        })?;
    Package::find(&real)
}

/// Downloads and unpacks it in `dir`.
pub(crate) fn fetch(
    package: &Package,
    modules: &[&str],
    dir: &Path,
    log: &Path,
    progress: &mut dyn Progress,
) -> Result<DistroKernel> {
    progress.update(Phase::Download, 0, 0);
    let root = package.unpack(dir, log)?;
    progress.update(Phase::Modules, 0, 0);
    let release = package.name.trim_start_matches("linux-image-").to_owned();
    let image = root.join("boot").join(format!("vmlinuz-{release}"));
    let tree = root.join("lib/modules").join(&release);
    let mut files = BTreeMap::new();
    collect(&tree, &mut files)?;
    let mut order = Vec::new();
    for name in modules {
        add(name, &files, &mut order, 0)?;
    }
    Ok(DistroKernel {
        image,
        modules: order,
    })
}

fn collect(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)
        .map_err(Error::file("list", dir))?
        .flatten()
    {
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::file("look at", &path))?;
        if kind.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// A module's name: its file's, with underscores, whatever it is compressed with.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let stem = file.split_once(".ko")?.0;
    Some(stem.replace('-', "_"))
}

/// Adds a module behind those it needs. Its own `.modinfo` section names them.
fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    order: &mut Vec<PathBuf>,
    depth: usize,
) -> Result<()> {
    let Some(path) = files.get(name) else {
        return Ok(());
    };
    if order.contains(path) || depth > 32 {
        return Ok(());
    }
    let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
    for needed in needs(&bytes) {
        add(&needed, files, order, depth + 1)?;
    }
    // What modinfo calls a soft dependency, and ext4 and nf_tables hide behind a crypto name.
    if matches!(name, "ext4" | "libcrc32c") {
        add("crc32c_generic", files, order, depth + 1)?;
    }
    order.push(path.clone());
    Ok(())
}

/// The modules a module needs, in the form `depends=a,b\0` of its `.modinfo`.
fn needs(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let rest = &module[at + KEY.len()..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(0);
    let list = String::from_utf8_lossy(&rest[..end]);
    list.split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_the_module() {
        assert_eq!(
            needs(b"x\0alias=y\0depends=a-b,c\0intree=Y\0"),
            ["a_b", "c"]
        );
        assert!(needs(b"x\0depends=\0").is_empty());
        assert!(needs(b"nothing").is_empty());
    }

    #[test]
    fn names_are_those_the_kernel_uses() {
        assert_eq!(
            module_name(Path::new("/x/crc32c-intel.ko")),
            Some("crc32c_intel".into())
        );
        assert_eq!(module_name(Path::new("/x/a.ko.xz")), Some("a".into()));
        assert_eq!(module_name(Path::new("/x/modules.dep")), None);
    }
}

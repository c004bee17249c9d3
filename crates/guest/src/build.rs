//! From packages and an agent to a guest in the cache.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::manifest::FORMAT;
use crate::package::Package;
use crate::{
    Cache, Error, FileRecord, Guest, KernelKind, Manifest, Phase, Progress, Result, Sha256, distro,
    initramfs, tuned,
};

/// Part of every key: raise it when the way of building changes.
const BUILDER: &[u8] = b"1";

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// Which kernel.
    pub kind: KernelKind,
    /// The static agent binary.
    pub agent: PathBuf,
}

/// A distribution's kernel in the cache, for a machine that is no sandbox.
#[derive(Debug)]
pub struct HostKernel {
    /// Its image.
    pub image: PathBuf,
    /// The modules that were asked for and those they need, in load order.
    pub modules: Vec<PathBuf>,
}

/// Fetches the kernel a Debian meta package names with some of its modules, or
/// gives what was fetched before.
///
/// # Errors
/// [`Error`]; nothing half-fetched is left where it could be found.
pub fn host_kernel(
    cache: &Cache,
    meta: &str,
    modules: &[&str],
    progress: &mut dyn Progress,
) -> Result<HostKernel> {
    let _lock = cache.lock(progress)?;
    let package = distro::package(meta)?;
    let wanted = Sha256::of(modules.join(" ").as_bytes());
    let make = |scratch: &Path, log: &Path, progress: &mut dyn Progress| {
        make_distro(&package, modules, scratch, log, progress)
    };
    let dir = kept(cache, "host", &package, wanted, progress, make)?;
    Ok(HostKernel {
        image: dir.join("kernel"),
        modules: self::modules(&dir)?,
    })
}

/// A kernel in the cache.
struct Kernel {
    dir: PathBuf,
    source: String,
    options: Sha256,
}

/// Builds a guest, or gives the one built before from the same inputs.
///
/// # Errors
/// [`Error`]; nothing half-built is left where it could be found.
pub fn build(cache: &Cache, options: &BuildOptions, progress: &mut dyn Progress) -> Result<Guest> {
    let (agent, agent_digest) = initramfs::read_agent(&options.agent)?;
    let _lock = cache.lock(progress)?;
    let kernel = kernel(cache, options.kind, progress)?;
    let kernel_name = kernel
        .dir
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let agent_text = agent_digest.to_string();
    let key = Sha256::of_inputs(&[
        ("builder", BUILDER),
        ("kernel", kernel_name.as_bytes()),
        ("agent", agent_text.as_bytes()),
    ]);
    let target = cache
        .dir("guests")
        .join(format!("{}-{}", options.kind.word(), key.short()));
    if let Ok(guest) = Guest::read(&target) {
        // The newest is what is found; used again is as good as new.
        let _ = File::open(&target).map(|dir| dir.set_modified(std::time::SystemTime::now()));
        return Ok(guest);
    }
    progress.update(Phase::Initramfs, 0, 0);
    let scratch = cache.scratch()?;
    initramfs::write(&scratch.join("initramfs"), &agent, &modules(&kernel.dir)?)?;
    let image = scratch.join("kernel");
    std::fs::copy(kernel.dir.join("kernel"), &image).map_err(Error::file("copy", &image))?;
    let manifest = Manifest {
        format: FORMAT,
        kind: options.kind,
        source: kernel.source,
        options: kernel.options,
        agent: agent_digest,
        kernel: record(&image)?,
        initramfs: record(&scratch.join("initramfs"))?,
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| Error::Manifest {
        path: target.clone(),
        problem: format!("cannot be written: {error}"),
    })?;
    let path = scratch.join("manifest.json");
    std::fs::write(&path, text).map_err(Error::file("write", &path))?;
    progress.update(Phase::Publish, 0, 0);
    publish(&scratch, &target)?;
    Guest::read(&target)
}

fn record(path: &Path) -> Result<FileRecord> {
    let mut file = File::open(path).map_err(Error::file("open", path))?;
    let size = file.metadata().map_err(Error::file("look at", path))?.len();
    let sha256 = Sha256::of_file(&mut file).map_err(Error::file("read", path))?;
    Ok(FileRecord { size, sha256 })
}

/// The kernel's modules in load order: the order of their names.
fn modules(dir: &Path) -> Result<Vec<PathBuf>> {
    let dir = dir.join("modules");
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(&dir).map_err(Error::file("list", &dir))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn kernel(cache: &Cache, kind: KernelKind, progress: &mut dyn Progress) -> Result<Kernel> {
    let options = match kind {
        KernelKind::Tuned => tuned::options_digest()?,
        KernelKind::Distro => Sha256::of(b""),
    };
    let package = match kind {
        KernelKind::Tuned => Package::find(tuned::PACKAGE)?,
        KernelKind::Distro => distro::package(distro::META)?,
    };
    let make = |scratch: &Path, log: &Path, progress: &mut dyn Progress| match kind {
        KernelKind::Tuned => make_tuned(&package, scratch, log, progress),
        KernelKind::Distro => make_distro(&package, &distro::MODULES, scratch, log, progress),
    };
    let dir = kept(cache, kind.word(), &package, options, progress, make)?;
    Ok(Kernel {
        dir,
        source: package.label(),
        options,
    })
}

/// The directory in the cache of what is made of a package with some options;
/// it is made unless it is there.
fn kept(
    cache: &Cache,
    word: &str,
    package: &Package,
    options: Sha256,
    progress: &mut dyn Progress,
    make: impl FnOnce(&Path, &Path, &mut dyn Progress) -> Result<PathBuf>,
) -> Result<PathBuf> {
    let options_text = options.to_string();
    let key = Sha256::of_inputs(&[
        ("builder", BUILDER),
        ("package", package.label().as_bytes()),
        ("sha256", package.sha256.as_bytes()),
        ("options", options_text.as_bytes()),
    ]);
    let target = cache.dir("kernels").join(format!("{word}-{}", key.short()));
    if !target.join("kernel").exists() {
        let scratch = cache.scratch()?;
        let log = cache.dir(&format!("{word}-kernel.log"));
        let _ = std::fs::remove_file(&log);
        let done = make(&scratch, &log, progress)?;
        progress.update(Phase::Publish, 0, 0);
        publish(&done, &target)?;
        let _ = cache.scratch();
    }
    Ok(target)
}

fn make_tuned(
    package: &Package,
    scratch: &Path,
    log: &Path,
    progress: &mut dyn Progress,
) -> Result<PathBuf> {
    let image = tuned::compile(package, scratch, log, progress)?;
    let done = scratch.join("done");
    std::fs::create_dir(&done).map_err(Error::file("make", &done))?;
    std::fs::rename(&image, done.join("kernel")).map_err(Error::file("move", &image))?;
    Ok(done)
}

fn make_distro(
    package: &Package,
    modules: &[&str],
    scratch: &Path,
    log: &Path,
    progress: &mut dyn Progress,
) -> Result<PathBuf> {
    let fetched = distro::fetch(package, modules, scratch, log, progress)?;
    let done = scratch.join("done");
    let dir = done.join("modules");
    std::fs::create_dir_all(&dir).map_err(Error::file("make", &dir))?;
    std::fs::rename(&fetched.image, done.join("kernel"))
        .map_err(Error::file("move", &fetched.image))?;
    for (index, module) in fetched.modules.iter().enumerate() {
        let file = module.file_name().unwrap_or_default().to_string_lossy();
        let to = dir.join(format!("{index:03}-{file}"));
        std::fs::rename(module, &to).map_err(Error::file("move", module))?;
    }
    Ok(done)
}

/// Makes files durable and read-only, then gives the directory its name: it is there whole or not
/// at all.
fn publish(from: &Path, to: &Path) -> Result<()> {
    seal(from)?;
    match std::fs::rename(from, to) {
        Ok(()) => {}
        // A damaged one of that name makes way.
        Err(_) if to.exists() => {
            std::fs::remove_dir_all(to).map_err(Error::file("remove", to))?;
            std::fs::rename(from, to).map_err(Error::file("move", from))?;
        }
        Err(error) => return Err(Error::file("move", from)(error)),
    }
    let parent = to.parent().unwrap_or(to);
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::file("sync", parent))
}

fn seal(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for entry in std::fs::read_dir(dir)
        .map_err(Error::file("list", dir))?
        .flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            seal(&path)?;
            continue;
        }
        let file = File::open(&path).map_err(Error::file("open", &path))?;
        file.set_permissions(std::fs::Permissions::from_mode(0o444))
            .and_then(|()| file.sync_all())
            .map_err(Error::file("sync", &path))?;
    }
    Ok(())
}

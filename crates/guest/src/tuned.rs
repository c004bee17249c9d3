//! The tuned kernel: compiled from Debian's source with the options and changes of
//! `guest/kernel`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kconfig::{self, FRAGMENTS, Options};
use crate::package::Package;
use crate::process::run;
use crate::{Error, Phase, Progress, Result, Sha256};

/// Debian's package of the source.
pub(crate) const PACKAGE: &str = "linux-source-6.12";

/// Lines `make` prints for a whole build, about: for the progress.
const BUILD_LINES: u64 = 2400;

/// Changes to the source, in order, by file name. Each says why it is needed.
const PATCHES: [(&str, &str); 1] = [(
    "virtio-mmio-rings.patch",
    include_str!("../../../guest/kernel/patches/virtio-mmio-rings.patch"),
)];

/// The options asked for.
pub(crate) fn options() -> Result<Options> {
    let mut all = Options::new();
    for (_, text) in FRAGMENTS {
        all.extend(kconfig::parse(text)?);
    }
    Ok(all)
}

/// Digest of the options and changes.
pub(crate) fn options_digest() -> Result<Sha256> {
    let options = kconfig::render(&options()?);
    let mut inputs = vec![("options", options.as_bytes())];
    inputs.extend(PATCHES.map(|(name, text)| (name, text.as_bytes())));
    Ok(Sha256::of_inputs(&inputs))
}

/// Compiles the kernel in `dir`; gives the image.
pub(crate) fn compile(
    package: &Package,
    dir: &Path,
    log: &Path,
    progress: &mut dyn Progress,
) -> Result<PathBuf> {
    progress.update(Phase::Download, 0, 0);
    let root = package.unpack(dir, log)?;
    progress.update(Phase::Unpack, 0, 0);
    let archive = root.join("usr/src").join(format!("{PACKAGE}.tar.xz"));
    let source = dir.join("source");
    std::fs::create_dir(&source).map_err(Error::file("make", &source))?;
    let mut unpack = Command::new("tar");
    unpack
        .arg("--extract")
        .arg("--strip-components=1")
        .arg("--directory")
        .arg(&source);
    unpack.arg("--file").arg(&archive);
    run(&mut unpack, "tar", log, &mut |_| {})?;
    change(&source, dir, log)?;
    progress.update(Phase::Configure, 0, 0);
    configure(&source, dir, log)?;
    let mut done = 0;
    let mut build = make(&source, dir);
    build.arg("vmlinux");
    run(&mut build, "make", log, &mut |_| {
        done += 1;
        progress.update(Phase::Compile, done, BUILD_LINES.max(done));
    })?;
    strip(dir, log)
}

fn change(source: &Path, dir: &Path, log: &Path) -> Result<()> {
    for (name, text) in PATCHES {
        let file = dir.join(name);
        std::fs::write(&file, text).map_err(Error::file("write", &file))?;
        let mut patch = Command::new("patch");
        patch.args(["--strip=1", "--batch", "--fuzz=0", "--directory"]);
        patch.arg(source).arg("--input").arg(&file);
        run(&mut patch, "patch", log, &mut |_| {})?;
    }
    Ok(())
}

/// The build depends on the source and the options alone: no time, no user, no directory.
fn make(source: &Path, dir: &Path) -> Command {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut command = Command::new("make");
    command
        .arg("-C")
        .arg(source)
        .arg(format!("O={}", dir.join("out").display()))
        .arg(format!("-j{jobs}"))
        .arg(format!("KCFLAGS=-ffile-prefix-map={}=.", source.display()))
        .env("KBUILD_BUILD_TIMESTAMP", "Thu, 1 Jan 1970 00:00:00 +0000")
        .env("KBUILD_BUILD_USER", "bulkhead")
        .env("KBUILD_BUILD_HOST", "guest")
        .env("KBUILD_BUILD_VERSION", "1")
        .env("LC_ALL", "C")
        .env_remove("MAKEFLAGS");
    command
}

fn configure(source: &Path, dir: &Path, log: &Path) -> Result<()> {
    let asked = options()?;
    let file = dir.join("asked.config");
    std::fs::write(&file, kconfig::render(&asked)).map_err(Error::file("write", &file))?;
    let out = dir.join("out");
    std::fs::create_dir(&out).map_err(Error::file("make", &out))?;
    let mut configure = make(source, dir);
    configure.env("KCONFIG_ALLCONFIG", &file).arg("allnoconfig");
    run(
        &mut configure,
        "make gcc flex bison bc libelf-dev",
        log,
        &mut |_| {},
    )?;
    let made = out.join(".config");
    let text = std::fs::read_to_string(&made).map_err(Error::file("read", &made))?;
    let lost = kconfig::lost(&asked, &kconfig::parse(&text)?);
    if lost.is_empty() {
        Ok(())
    } else {
        Err(Error::LostOptions { lost })
    }
}

fn strip(dir: &Path, log: &Path) -> Result<PathBuf> {
    let kernel = dir.join("kernel");
    let mut strip = Command::new("strip");
    strip
        .arg("--strip-all")
        .arg("-o")
        .arg(&kernel)
        .arg(dir.join("out/vmlinux"));
    run(&mut strip, "binutils", log, &mut |_| {})?;
    let bytes = std::fs::read(&kernel).map_err(Error::file("read", &kernel))?;
    if crate::pvh_entry(&bytes).is_none() {
        return Err(Error::BadKernel {
            file: "vmlinux".to_owned(),
            problem: "has no PVH entry point: QEMU could not boot it (CONFIG_PVH)",
        });
    }
    Ok(kernel)
}

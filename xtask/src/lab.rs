//! A machine with real KVM where the host has none: QEMU emulates a processor
//! with AMD's virtualization, Debian's kernel offers it as /dev/kvm, and all
//! programs and files of this machine are there.
//!
//! ```text
//!   host ─ QEMU, emulated ─▶ Debian's kernel, /dev/kvm ─ bulkhead ─▶ QEMU, KVM ─▶ guest
//! ```

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use bulkhead_guest::cpio::{Kind, Writer};
use bulkhead_guest::{Cache, HostKernel};

use crate::guest::{Printer, text};
use crate::prerequisites;
use crate::run::{self, Outcome};

const KERNEL: &str = "linux-image-amd64";

/// What the host's files, QEMU with KVM, and pods' networks need.
const MODULES: [&str; 29] = [
    "virtio_pci",
    "9pnet_virtio",
    "9p",
    "overlay",
    "kvm_amd",
    "vhost_vsock",
    "vhost_net",
    "tun",
    "virtio_blk",
    "virtio_net",
    "loop",
    "erofs",
    "ext4",
    "veth",
    "bridge",
    "sch_ingress",
    "cls_u32",
    "act_mirred",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_compat",
    "xt_MASQUERADE",
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_mark",
    "xt_multiport",
    "xt_nat",
];

const INIT: &str = include_str!("lab/init.sh");

/// What a lab with systemd has below `/run/lab`.
const SYSTEMD: [(&str, &str); 6] = [
    ("main.sh", include_str!("lab/systemd/main.sh")),
    (
        "units/lab.service",
        include_str!("lab/systemd/units/lab.service"),
    ),
    (
        "units/lab.target",
        include_str!("lab/systemd/units/lab.target"),
    ),
    (
        "units/basic.target",
        include_str!("lab/systemd/units/basic.target"),
    ),
    (
        "units/sysinit.target",
        include_str!("lab/systemd/units/sysinit.target"),
    ),
    (
        "units/shutdown.target",
        include_str!("lab/systemd/units/shutdown.target"),
    ),
];

/// Memory of the lab, MiB: guests, and whatever is written to its files.
const MEMORY: u32 = 6144;

/// What timeout(1) ends with when the time is up.
const EXPIRED: i32 = 124;

/// How a lab is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Its clock counts instructions: the same work takes the same time,
    /// whatever else the machine does.
    pub(crate) instruction_clock: bool,
    /// Its first process is systemd, with a bus and a journal, and the command a
    /// service, as on most machines.
    pub(crate) systemd: bool,
    /// How long it may take: an emulated processor that hangs says nothing.
    pub(crate) minutes: u32,
}

/// Runs a command in the lab, in this directory; its output is this one's.
pub(crate) fn run(yes: bool, options: Options, words: &[String]) -> Outcome {
    prerequisites::install(yes)?;
    let cache = Cache::default_root().and_then(|root| Cache::open(&root));
    let cache = cache.map_err(text)?;
    let mut printer = Printer::default();
    let kernel = bulkhead_guest::host_kernel(&cache, KERNEL, &MODULES, &mut printer);
    printer.end();
    let kernel = kernel.map_err(text)?;
    let dir = run::workspace().join("target/lab");
    let out = dir.join("out");
    std::fs::create_dir_all(&out).map_err(|e| format!("`{}`: {e}", out.display()))?;
    let initramfs = dir.join("initramfs");
    let image = archive(&kernel, &out, options, words)?;
    std::fs::write(&initramfs, image).map_err(|e| format!("`{}`: {e}", initramfs.display()))?;
    let start = Instant::now();
    let outcome = boot(&kernel, &initramfs, &out, options);
    eprintln!(
        "lab: {:.1} s on this machine's clock",
        start.elapsed().as_secs_f64()
    );
    outcome
}

fn boot(kernel: &HostKernel, initramfs: &Path, out: &Path, options: Options) -> Outcome {
    let accelerator = match options.instruction_clock {
        true => ["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=on"].as_slice(),
        false => ["-accel", "tcg,thread=multi"].as_slice(),
    };
    let mut qemu = Command::new("timeout");
    qemu.args(["--foreground", "--kill-after=10"])
        .args([&format!("{}m", options.minutes), "qemu-system-x86_64"])
        .args(["-M", "q35", "-cpu", "max", "-smp", "1"])
        .args(accelerator)
        .args(["-m", &MEMORY.to_string()])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-serial", "stdio", "-no-reboot"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args(["-device", "virtio-rng-pci"]);
    share(&mut qemu, "host", "/".as_ref(), "on");
    share(&mut qemu, "out", out, "off");
    let status = qemu
        .status()
        .map_err(|error| format!("`timeout` did not start: {error}"))?;
    match status.code() {
        Some(EXPIRED) => Err(format!(
            "the lab did not end within {} minutes; `--minutes` gives it more",
            options.minutes
        )),
        Some(1) => Ok(()),
        Some(code) if code % 2 == 1 => Err(format!("the command ended with {}", code / 2)),
        _ => Err(format!("the lab ended by itself: {status}")),
    }
}

fn share(qemu: &mut Command, tag: &str, path: &Path, read_only: &str) {
    // A comma ends a value of QEMU's unless there are two.
    let path = path.display().to_string().replace(',', ",,");
    qemu.arg("-fsdev").arg(format!(
        "local,id={tag},path={path},security_model=none,readonly={read_only},multidevs=remap"
    ));
    qemu.arg("-device")
        .arg(format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
}

/// The lab's first process, busybox, modules, and what is to be run.
fn archive(
    kernel: &HostKernel,
    out: &Path,
    options: Options,
    words: &[String],
) -> Outcome<Vec<u8>> {
    let failed = |error: std::io::Error| format!("the lab's initramfs: {error}");
    let read = |path: &Path| std::fs::read(path).map_err(|e| format!("`{}`: {e}", path.display()));
    let mut archive = Writer::new(Vec::new());
    let mut add = |name: &str, kind, permissions, data: &[u8]| {
        archive.add(name, kind, permissions, data).map_err(failed)
    };
    for name in ["dev", "modules"] {
        add(name, Kind::Directory, 0o755, b"")?;
    }
    add("dev/console", Kind::CharDevice(5, 1), 0o600, b"")?;
    add("init", Kind::File, 0o555, INIT.as_bytes())?;
    add(
        "busybox",
        Kind::File,
        0o555,
        &read("/bin/busybox".as_ref())?,
    )?;
    for module in &kernel.modules {
        let file = module.file_name().unwrap_or_default().to_string_lossy();
        add(
            &format!("modules/{file}"),
            Kind::File,
            0o444,
            &read(module)?,
        )?;
    }
    add(
        "out",
        Kind::File,
        0o444,
        out.display().to_string().as_bytes(),
    )?;
    add("command", Kind::File, 0o444, command(words)?.as_bytes())?;
    if options.systemd {
        for name in ["systemd", "systemd/units"] {
            add(name, Kind::Directory, 0o755, b"")?;
        }
        for (name, text) in SYSTEMD {
            let name = format!("systemd/{name}");
            add(&name, Kind::File, 0o444, text.as_bytes())?;
        }
    }
    archive.finish().map_err(failed)
}

/// A script that does what was asked here, there.
fn command(words: &[String]) -> Outcome<String> {
    let here = std::env::current_dir().map_err(|e| e.to_string())?;
    let mut script = format!("cd {}\n", quoted(&here.display().to_string()));
    for (name, value) in std::env::vars() {
        if ["PATH", "HOME"].contains(&name.as_str()) || name.starts_with("BULKHEAD_") {
            script += &format!("export {name}={}\n", quoted(&value));
        }
    }
    // No pipe is made for a command's exit code, so that it is the shell's.
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    Ok(script + &format!("exec {}\n", words.join(" ")))
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_reaches_the_lab_as_it_is() {
        let words = ["echo", "it's", "a  $b"].map(str::to_owned);
        let script = command(&words).unwrap();
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(output.stdout, b"it's a  $b\n");
    }
}

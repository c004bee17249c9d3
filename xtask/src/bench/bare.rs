//! The limit: the same kernel in the same machine, with an init that does
//! nothing.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_guest::{Guest, cpio};

use super::{round_trip, text};
use crate::run::{self, Outcome};

/// Bytes the empty init sends when asked for zeros; see init.c.
const ZEROS: u64 = 64 << 20;

/// How a bare machine is started.
pub(super) struct Bare {
    machine: Vec<String>,
    initramfs: PathBuf,
}

/// What the machine's options of a sandbox are; devices and files are not the
/// machine.
const MACHINE: [&str; 9] = [
    "-display", "-sandbox", "-accel", "-cpu", "-object", "-M", "-m", "-smp", "-append",
];

impl Bare {
    /// Takes the machine from a running sandbox's monitor.
    pub(super) fn like(vmm_pid: u64, guest: &Guest, dir: &Path) -> Outcome<Self> {
        let line = std::fs::read_to_string(format!("/proc/{vmm_pid}/cmdline")).map_err(text)?;
        let words: Vec<_> = line.split('\0').map(str::to_owned).collect();
        Ok(Self {
            machine: machine(&words, guest)?,
            initramfs: initramfs(dir)?,
        })
    }

    fn spawn(&self, port: Option<&Path>) -> Outcome<Child> {
        let mut command = Command::new(&self.machine[0]);
        command.args(&self.machine[1..]);
        command.arg("-initrd").arg(&self.initramfs);
        command.args(["-serial", "stdio"]);
        if let Some(path) = port {
            let chardev = format!("socket,id=port,path={},server=off", path.display());
            command.args(["-chardev", &chardev]);
            command.args(["-device", "virtio-serial-device,max_ports=2"]);
            command.args(["-device", "virtserialport,chardev=port"]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(text)
    }

    /// From starting the monitor to the first byte of the empty init.
    pub(super) fn boot(&self) -> Outcome<Duration> {
        let start = Instant::now();
        let mut child = self.spawn(None)?;
        let took = ready(&mut child).map(|()| start.elapsed());
        end(child);
        took
    }

    /// Bytes per second out of the guest, and the time of a 4 KiB round trip,
    /// over a virtio-serial port with nothing in between.
    pub(super) fn port(&self, dir: &Path) -> Outcome<(f64, Duration)> {
        let path = dir.join("port.sock");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(text)?;
        let mut child = self.spawn(Some(&path))?;
        let measured = ready(&mut child).and_then(|()| {
            let (port, _) = listener.accept().map_err(text)?;
            exchange(port).map_err(text)
        });
        end(child);
        measured
    }
}

/// A monitor and its machine, from the arguments of a sandbox's, with a kernel.
pub(super) fn machine(words: &[String], guest: &Guest) -> Outcome<Vec<String>> {
    let mut machine = vec![words.first().ok_or("a monitor without a name")?.clone()];
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        machine.push(flag.to_owned());
    }
    for pair in words.windows(2) {
        if MACHINE.contains(&pair[0].as_str()) {
            machine.extend_from_slice(pair);
        }
    }
    let kernel = guest.dir().join("kernel").display().to_string();
    machine.extend(["-kernel".to_owned(), kernel]);
    Ok(machine)
}

fn exchange(mut port: UnixStream) -> std::io::Result<(f64, Duration)> {
    let mut from = port.try_clone()?;
    let trip = round_trip(&mut port, &mut from)?;
    let start = Instant::now();
    port.write_all(b"z")?;
    std::io::copy(&mut port.take(ZEROS), &mut std::io::sink())?;
    Ok((ZEROS as f64 / start.elapsed().as_secs_f64(), trip))
}

fn ready(child: &mut Child) -> Outcome {
    let stdout = child.stdout.as_mut().ok_or("no console")?;
    let mut byte = [0];
    loop {
        stdout
            .read_exact(&mut byte)
            .map_err(|e| format!("the bare machine ended: {e}"))?;
        if byte[0] == b'R' {
            return Ok(());
        }
    }
}

fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn initramfs(dir: &Path) -> Outcome<PathBuf> {
    let source = run::workspace().join("xtask/src/bench/init.c");
    let program = dir.join("init");
    let mut gcc = Command::new("gcc");
    gcc.args(["-Os", "-static", "-s", "-w", "-o"]);
    run::command(gcc.arg(&program).arg(source))?;
    let bytes = std::fs::read(&program).map_err(text)?;
    let path = dir.join("initramfs");
    write_initramfs(&path, &["dev"], &[("init", &bytes)])?;
    Ok(path)
}

/// Writes an initramfs of directories and programs, beside a console.
pub(super) fn write_initramfs(
    path: &Path,
    directories: &[&str],
    programs: &[(&str, &[u8])],
) -> Outcome {
    let mut archive = cpio::Writer::new(Vec::new());
    let mut add = |name, kind, permissions, data: &[u8]| {
        archive.add(name, kind, permissions, data).map_err(text)
    };
    for name in directories {
        add(name, cpio::Kind::Directory, 0o755, &[])?;
    }
    add("dev/console", cpio::Kind::CharDevice(5, 1), 0o600, &[])?;
    for (name, data) in programs {
        add(name, cpio::Kind::File, 0o755, data)?;
    }
    std::fs::write(path, archive.finish().map_err(text)?).map_err(text)
}

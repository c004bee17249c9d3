//! Disks and the network of a pod, beside the same work in a bare machine.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::report::{conditions, median};
use super::{bare, directory, pods, text};
use crate::run::{self, Outcome};
use crate::{Kernel, demo, guest, prerequisites};

/// What does the work.
const PACKAGES: &str = "fio,iperf3,qperf";

/// The same everywhere.
const WORK: &str = include_str!("io.sh");

/// The bare machine's address, and the host's.
const ADDRESSES: (&str, &str) = ("10.89.0.2/16", "10.89.0.1");

const IMAGE: &str = "localhost/io:1";

/// How many figures there are.
const FIGURES: usize = 11;

/// By name, from one run.
type Figures = BTreeMap<String, f64>;

/// Measures, and writes `target/bench/io.json`.
pub(super) fn run(yes: bool, rounds: u32) -> Outcome {
    prerequisites::install(yes)?;
    run::command(run::cargo().args(["build", "--release"]))?;
    pods::build("io-bench")?;
    guest::build(Kernel::Tuned)?;
    let dir = directory()?;
    let guest = guest::newest_tuned()?;
    let image = Image::at(&dir.join("io"))?;
    let mut all: BTreeMap<&str, Vec<Figures>> = BTreeMap::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        let mut machine = None;
        for (handler, name) in pods::HANDLERS {
            let (figures, monitor) = pod(handler, &image)?;
            all.entry(name).or_default().push(figures);
            machine = machine.or(monitor);
        }
        let words = machine.ok_or("no pod had a machine")?;
        let bare = bare::machine(&words, &guest)?;
        all.entry("bare")
            .or_default()
            .push(machine_alone(&bare, &image)?);
    }
    print(&all);
    let samples: BTreeMap<_, _> = all
        .iter()
        .map(|(who, rounds)| (who, json!(rounds)))
        .collect();
    let report = json!({"conditions": conditions(rounds), "samples": samples});
    let path = dir.join("io.json");
    std::fs::write(&path, format!("{report:#}\n")).map_err(text)?;
    println!("\nwritten to {}", path.display());
    Ok(())
}

fn print(all: &BTreeMap<&str, Vec<Figures>>) {
    let middle = |who: &str, name: &str| {
        let rounds = all.get(who).into_iter().flatten();
        let values: Vec<f64> = rounds
            .filter_map(|figures| figures.get(name).copied())
            .collect();
        median(&values)
    };
    let [(_, own), (_, peer)] = pods::HANDLERS;
    println!(
        "\n{:<28} {:>10} {:>10} {:>7} {:>10}",
        "", "bare", "bulkhead", "ratio", "runc"
    );
    let names = all.get("bare").and_then(|rounds| rounds.first());
    for name in names.into_iter().flat_map(Figures::keys) {
        let (bare, bulkhead, runc) = (middle("bare", name), middle(own, name), middle(peer, name));
        let ratio = bulkhead / bare;
        println!("{name:<28} {bare:>10.1} {bulkhead:>10.1} {ratio:>7.2} {runc:>10.1}");
    }
}

/// What one pod measured, and its monitor's arguments.
fn pod(handler: &str, image: &Image) -> Outcome<(Figures, Option<Vec<String>>)> {
    let mut command = Command::new(run::workspace().join("target/debug/io-bench"));
    command.arg(&image.archive).arg(IMAGE).arg(&image.files);
    let mut said = pods::ask(&mut command, handler)?;
    let figures = serde_json::from_value(said["figures"].take()).map_err(|e| e.to_string())?;
    let monitor: Value = said["monitor"].take();
    Ok((
        whole(handler, figures)?,
        serde_json::from_value(monitor).ok(),
    ))
}

/// The same in a machine with nothing of ours in it.
fn machine_alone(bare: &[String], image: &Image) -> Outcome<Figures> {
    let network = Network::new()?;
    let mut peer = network.serve(&image.files)?;
    let done = boot(bare, image, &network);
    let _ = peer.kill();
    let _ = peer.wait();
    done
}

fn boot(bare: &[String], image: &Image, network: &Network) -> Outcome<Figures> {
    // Where writable layers and the pods' volume are as well.
    let place = tempfile::tempdir_in("/var/tmp").map_err(text)?;
    let (root, volume) = (place.path().join("root"), place.path().join("volume"));
    run::command(
        Command::new("cp")
            .arg("--sparse=always")
            .arg(&image.disk)
            .arg(&root),
    )?;
    std::fs::File::create(&volume)
        .and_then(|file| file.set_len(256 << 20))
        .map_err(text)?;
    let device = Loop::over(&volume)?;
    let init = include_str!("io-init.sh")
        .replace("ADDRESS", ADDRESSES.0)
        .replace("PEER", ADDRESSES.1);
    let busybox = std::fs::read("/bin/busybox").map_err(text)?;
    let initramfs = place.path().join("initramfs");
    bare::write_initramfs(
        &initramfs,
        &["dev", "bin", "sys", "root"],
        &[("bin/busybox", &busybox), ("init", init.as_bytes())],
    )?;
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", network.name));
    command.args(bare).arg("-initrd").arg(&initramfs);
    for (serial, driver, path) in [
        ("root", "file", root.display().to_string()),
        ("volume", "host_device", device.path.clone()),
    ] {
        command.arg("-blockdev").arg(format!(
            "driver={driver},filename={path},node-name={serial},discard=unmap,aio=threads"
        ));
        command
            .arg("-device")
            .arg(format!("virtio-blk-device,drive={serial},serial={serial}"));
    }
    command.args([
        "-netdev",
        "tap,id=net,ifname=bare0,script=no,downscript=no,vhost=off",
    ]);
    command.args(["-device", "virtio-net-device,netdev=net"]);
    command
        .args(["-serial", "stdio"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command.spawn().map_err(text)?;
    let figures = figures(&mut child);
    let _ = child.kill();
    let _ = child.wait();
    figures
}

/// What the machine says on its console until it is done.
fn figures(child: &mut Child) -> Outcome<Figures> {
    let console = child.stdout.take().ok_or("no console")?;
    let mut figures = Figures::new();
    for line in BufReader::new(console).lines() {
        let line = line.map_err(text)?;
        let line = line.trim();
        if line == "end" {
            return whole("the bare machine", figures);
        }
        let pair = line.split_once(' ');
        if let Some((name, Ok(value))) = pair.map(|(name, value)| (name, value.parse())) {
            figures.insert(name.to_owned(), value);
        }
    }
    Err(format!("the bare machine ended after {figures:?}"))
}

/// No tool failed.
fn whole(who: &str, figures: Figures) -> Outcome<Figures> {
    match figures.len() {
        FIGURES => Ok(figures),
        _ => Err(format!("{who} measured {figures:?}, not {FIGURES} figures")),
    }
}

/// A network namespace with a tap device for the bare machine.
struct Network {
    name: String,
}

impl Network {
    fn new() -> Outcome<Self> {
        let name = format!("bulkhead-bench-{}", std::process::id());
        let ip = |words: &str| run::command(Command::new("ip").args(words.split(' ')));
        ip(&format!("netns add {name}"))?;
        let network = Self { name };
        let name = &network.name;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} tuntap add bare0 mode tap vnet_hdr"))?;
        ip(&format!("-n {name} link set bare0 mtu 1400 up"))?;
        ip(&format!(
            "-n {name} address add {}/16 dev bare0",
            ADDRESSES.1
        ))?;
        Ok(network)
    }

    fn serve(&self, files: &Path) -> Outcome<Child> {
        let mut peer = Command::new("sh");
        peer.arg(files.join("work.sh"));
        peer.args(["peer", &self.name]).arg(files);
        peer.stdin(Stdio::null()).spawn().map_err(text)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.name])
            .status();
    }
}

/// A loop device, given back at the end.
struct Loop {
    path: String,
}

impl Loop {
    fn over(file: &Path) -> Outcome<Self> {
        let mut losetup = Command::new("losetup");
        let path = run::said(losetup.args(["--find", "--show"]).arg(file))?;
        Ok(Self { path })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .args(["--detach", &self.path])
            .status();
    }
}

/// A small Debian with the tools, in the three forms it is used in.
struct Image {
    files: PathBuf,
    disk: PathBuf,
    archive: PathBuf,
}

impl Image {
    /// Made once for the same work; half a minute.
    fn at(dir: &Path) -> Outcome<Self> {
        let image = Self {
            files: dir.join("files"),
            disk: dir.join("disk"),
            archive: dir.join("archive"),
        };
        let made = dir.join("made");
        let recipe = format!("{PACKAGES}\n{WORK}");
        if std::fs::read_to_string(&made).is_ok_and(|text| text == recipe) {
            return Ok(image);
        }
        if dir.exists() {
            std::fs::remove_dir_all(dir).map_err(text)?;
        }
        std::fs::create_dir_all(dir).map_err(text)?;
        image.make(dir)?;
        std::fs::write(&made, recipe).map_err(text)?;
        Ok(image)
    }

    fn make(&self, dir: &Path) -> Outcome {
        let mut debian = Command::new("mmdebstrap");
        debian.args(["--variant=apt", "--quiet", "--format=directory"]);
        debian.arg(format!("--include={PACKAGES}")).arg("bookworm");
        run::command(debian.arg(&self.files))?;
        std::fs::write(self.files.join("work.sh"), WORK).map_err(text)?;
        let mut format = Command::new("mke2fs");
        format.args(["-q", "-t", "ext4", "-d"]).arg(&self.files);
        run::command(format.arg(&self.disk).arg("2G"))?;
        let tagged = demo::write_layout(&self.files, &dir.join("layout"))?;
        let archive = format!("oci-archive:{}:{IMAGE}", self.archive.display());
        let mut copy = Command::new("skopeo");
        run::command(copy.args(["copy", "--quiet", &format!("oci:{tagged}"), &archive]))
    }
}

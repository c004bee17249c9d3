//! Figures, measured here and now, side by side. Nothing is asserted: what a
//! figure should be depends on the machine.

mod bare;
mod contender;
mod io;
mod memory;
mod operator;
mod pods;
mod report;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::bare::Bare;
use self::contender::{Contender, bulkhead, run_command};
use self::report::Report;
use crate::run::{self, Outcome};
use crate::{Kernel, guest, lab, prerequisites};

/// Memory of a machine nobody asked more for, bytes.
const GUEST_MEMORY: u64 = 512 << 20;

/// After a start, until memory is looked at.
const SETTLED: Duration = Duration::from_secs(3);

/// Bytes through standard output.
const OUTPUT: u64 = 256 << 20;

/// What is measured, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Rounds; each runs everybody once.
    pub(crate) rounds: u32,
    /// In the lab, on its instruction clock.
    pub(crate) lab: bool,
    /// Everything is built: this is the lab.
    pub(crate) prepared: bool,
    /// The operator and the node agent, and nothing else.
    pub(crate) operator: bool,
    /// Disks and the network of pods, and nothing else.
    pub(crate) io: bool,
}

/// Measures everything and writes `results.json`: to `target/bench`, or from the
/// lab to `target/lab/out`.
pub(crate) fn run(yes: bool, options: Options) -> Outcome {
    if options.operator {
        return operator::run();
    }
    if options.io {
        return io::run(yes, options.rounds);
    }
    if !options.prepared {
        prepare(yes)?;
    }
    if options.lab {
        let rounds = options.rounds.to_string();
        let program = std::env::current_exe().map_err(text)?.display().to_string();
        let words = [&program, "bench", "--prepared", "--rounds", &rounds];
        let clock = lab::Options {
            instruction_clock: true,
            systemd: false,
            minutes: 20,
        };
        return lab::run(yes, clock, &words.map(str::to_owned));
    }
    measure(options)
}

/// Builds what is measured.
fn prepare(yes: bool) -> Outcome {
    prerequisites::install(yes)?;
    prerequisites::install_peers(yes)?;
    run::command(run::cargo().args(["build", "--release"]))?;
    pods::build("pods-bench")?;
    guest::build(Kernel::Tuned)?;
    image(&directory()?).map(drop)
}

fn directory() -> Outcome<PathBuf> {
    let dir = run::workspace().join("target/bench");
    std::fs::create_dir_all(&dir).map_err(text)?;
    Ok(dir)
}

fn measure(options: Options) -> Outcome {
    let rounds = options.rounds;
    let dir = directory()?;
    let guest = guest::newest_tuned()?;
    let image = image(&dir)?;
    let root = dir.join("root");
    let mut report = Report::new(rounds);

    let idle = Idle::start(&root, &image)?;
    let bare = Bare::like(idle.vmm, &guest, &dir)?;
    report.add("memory", idle.memory(&root)?);
    report.add("phases_ms", idle.phases());
    let output = if options.prepared {
        OUTPUT / 16
    } else {
        OUTPUT
    };
    report.add(
        "throughput",
        throughput(&root, &image, &bare, &dir, output)?,
    );
    idle.end(&root)?;
    let bytes = crate::agent::program().metadata().map_err(text)?.len();
    report.add("agent", json!({"bytes": bytes}));

    let mut contenders = vec![Contender::Bulkhead { image, root }];
    contenders.extend(contender::runtimes(&dir));
    if options.prepared {
        // Files are read from the host the first time, as slowly as it likes.
        for _ in 0..2 {
            bare.boot()?;
            for contender in &contenders {
                contender.start()?;
            }
        }
    }
    // One round after the other, everybody in each: what the machine does
    // meanwhile falls on all alike.
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        report.sample("start", "bare boot", bare.boot());
        for contender in &contenders {
            report.sample("start", contender.name(), contender.start());
        }
        for contender in contenders.iter().filter(|_| !options.prepared) {
            report.sample("compute", contender.name(), contender.compute());
        }
    }
    let crowd = match options.prepared {
        true => pods::LAB,
        false => pods::NODE,
    };
    for (handler, name) in pods::HANDLERS {
        match pods::measure(handler, rounds, crowd) {
            Ok(figures) => report.pods(name, figures),
            Err(error) => report.failed(error),
        }
    }
    if options.prepared {
        report.failed("computing, and pods at once and beside others: not in the lab".to_owned());
    }
    report.print();
    let results = match options.prepared {
        true => run::workspace().join("target/lab/out"),
        false => dir,
    };
    let path = results.join("results.json");
    std::fs::write(&path, report.to_json()).map_err(text)?;
    println!("\nwritten to {}", path.display());
    Ok(())
}

/// A container that does nothing.
struct Idle {
    id: String,
    vmm: u64,
    supervisor: u64,
    state: Value,
}

impl Idle {
    fn start(root: &Path, image: &str) -> Outcome<Self> {
        let words = ["run", "-d", "--network", "none", image, "sleep", "1000"];
        // Twice: the first start converts the layers.
        let first = ask(root, &words)?;
        ask(root, &["rm", "-f", &first])?;
        let id = ask(root, &words)?;
        let text = ask(root, &["inspect", &id])?;
        let all: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let state = all[0]["state"].clone();
        let pid = |name: &str| state[name].as_u64().ok_or(format!("no `{name}`"));
        Ok(Self {
            vmm: pid("vmm_pid")?,
            supervisor: pid("supervisor_pid")?,
            id,
            state,
        })
    }

    fn memory(&self, root: &Path) -> Outcome<Value> {
        let read = |path| ask(root, &["exec", &self.id, "cat", path]);
        let (meminfo, zoneinfo) = (read("/proc/meminfo")?, read("/proc/zoneinfo")?);
        // An idle container is one whose start is over.
        std::thread::sleep(SETTLED);
        let supervisor = memory::of(self.supervisor, GUEST_MEMORY)?;
        let vmm = memory::of(self.vmm, GUEST_MEMORY)?;
        Ok(json!({
            "supervisor_pss_kib": supervisor.pss,
            "supervisor_private_kib": supervisor.private,
            "vmm_private_kib": vmm.private,
            "guest_touched_kib": vmm.guest,
            "guest_in_use_kib": memory::in_use(GUEST_MEMORY >> 10, &meminfo, &zoneinfo),
        }))
    }

    fn phases(&self) -> Value {
        let pairs = self.state["timings"].as_array().into_iter().flatten();
        pairs
            .filter_map(|pair| {
                let millis = pair[1].as_f64()? / 1000.0;
                Some((pair[0].as_str()?.to_owned(), json!(millis)))
            })
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    fn end(self, root: &Path) -> Outcome {
        ask(root, &["rm", "-f", &self.id]).map(|_| ())
    }
}

/// Standard output and a 4 KiB round trip, beside a bare port of the same
/// monitor.
fn throughput(root: &Path, image: &str, bare: &Bare, dir: &Path, output: u64) -> Outcome<Value> {
    let (port, trip) = bare.port(dir)?;
    // Not `head`: busybox reads single bytes, and would be what is measured.
    let script = format!("dd if=/dev/zero bs=65536 count={}", output >> 16);
    let mut child = run_command(root, image, &[], &["sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(text)?;
    let mut out = child.stdout.take().ok_or("no pipe")?;
    out.read_exact(&mut [0]).map_err(text)?;
    let start = Instant::now();
    let bytes = std::io::copy(&mut out, &mut std::io::sink()).map_err(text)?;
    let stdout = bytes as f64 / start.elapsed().as_secs_f64();
    child.wait().map_err(text)?;
    let own = stdio_round_trip(root, image)?;
    Ok(json!({
        "stdout_mb_s": stdout / 1e6,
        "bare_port_mb_s": port / 1e6,
        "stdout_ratio": stdout / port,
        "round_trip_us": own.as_micros() as u64,
        "bare_round_trip_us": trip.as_micros() as u64,
        "round_trip_ratio": own.as_secs_f64() / trip.as_secs_f64(),
    }))
}

fn stdio_round_trip(root: &Path, image: &str) -> Outcome<Duration> {
    let mut child = run_command(root, image, &["-i"], &["cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(text)?;
    let mut to = child.stdin.take().ok_or("no pipe")?;
    let mut from = child.stdout.take().ok_or("no pipe")?;
    let trip = round_trip(&mut to, &mut from).map_err(text)?;
    drop(to);
    child.wait().map_err(text)?;
    Ok(trip)
}

/// The time of a round trip of 4 KiB, the first of which is not counted: the
/// other side may still be getting ready.
fn round_trip(to: &mut impl Write, from: &mut impl Read) -> std::io::Result<Duration> {
    const TRIPS: u32 = 200;
    let mut block = [1; 4096];
    let mut trip = || {
        to.write_all(&block)?;
        from.read_exact(&mut block)
    };
    trip()?;
    let start = Instant::now();
    for _ in 0..TRIPS {
        trip()?;
    }
    Ok(start.elapsed() / TRIPS)
}

/// An image of busybox, whose files are the other runtimes' bundle.
fn image(dir: &Path) -> Outcome<String> {
    let layout = dir.join("image");
    if !layout.exists() {
        crate::demo::make_image(dir, &layout)?;
    }
    Ok(format!("oci:{}:latest", layout.display()))
}

/// Asks the program, and gives what it prints.
fn ask(root: &Path, words: &[&str]) -> Outcome<String> {
    run::said(bulkhead(root).args(words))
}

#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
fn text(error: std::io::Error) -> String {
    error.to_string()
}

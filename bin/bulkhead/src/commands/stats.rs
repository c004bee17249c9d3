//! `bulkhead stats` and `top`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::{connect, open_client};
use crate::cli::{Format, Name, StatsOptions};
use crate::report::{CommandError, Outcome};
use crate::state::{Root, id};
use crate::style;
use bulkhead_control::StatsLine;
use bulkhead_control::{Answer, Request};

/// Time between two lines of the same container, as Podman's.
const INTERVAL: Duration = Duration::from_secs(5);

/// Prints what containers use.
pub(super) fn run(root: &Root, options: &StatsOptions) -> Outcome {
    let mut previous: Vec<(StatsLine, Instant)> = Vec::new();
    loop {
        let lines = collect(root, &options.names)?;
        let now = Instant::now();
        match options.format.format {
            Format::Json => println!("{}", serde_json::to_string_pretty(&lines)?),
            Format::Table => print!("{}", table(&lines, &previous, now)),
        }
        if options.no_stream {
            return Ok(ExitCode::SUCCESS);
        }
        previous = lines.into_iter().map(|line| (line, now)).collect();
        std::thread::sleep(INTERVAL);
    }
}

fn collect(root: &Root, names: &[String]) -> Result<Vec<StatsLine>, CommandError> {
    let mut dirs = Vec::new();
    for name in names {
        dirs.push(root.find(name)?);
    }
    if names.is_empty() {
        let live = root.list()?.into_iter();
        dirs.extend(live.filter(|dir| dir.state().is_ok_and(|state| state.is_live())));
    }
    let mut lines = Vec::new();
    for dir in dirs {
        let client = open_client(&dir, &dir.record()?)?;
        if let Answer::Stats(line) = client.ask(Request::Stats)? {
            lines.push(*line);
        }
    }
    Ok(lines)
}

fn table(lines: &[StatsLine], previous: &[(StatsLine, Instant)], now: Instant) -> String {
    let head = [
        "ID",
        "NAME",
        "CPU",
        "MEM USAGE / LIMIT",
        "GUEST FREE",
        "HOST MEM",
        "NET IN / OUT",
        "DISK IN / OUT",
        "PIDS",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for line in lines {
        let before = previous.iter().find(|(old, _)| old.id == line.id);
        let cpu = before.map(|(old, then)| {
            let used = line.cpu_usage_usec.saturating_sub(old.cpu_usage_usec) as f64;
            used * 100.0 / (now.duration_since(*then).as_micros().max(1) as f64)
        });
        let limit = if line.memory_limit_bytes == 0 {
            line.guest_memory_bytes
        } else {
            line.memory_limit_bytes
        };
        rows.push(vec![
            id::short(&line.id).to_owned(),
            line.name.clone(),
            cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.1}%")),
            format!(
                "{} / {}",
                style::bytes(line.memory_bytes),
                style::bytes(limit)
            ),
            style::bytes(line.guest_available_bytes),
            style::bytes(line.host_memory_bytes + line.supervisor_memory_bytes),
            format!(
                "{} / {}",
                style::bytes(line.received_bytes),
                style::bytes(line.sent_bytes)
            ),
            format!(
                "{} / {}",
                style::bytes(line.read_bytes),
                style::bytes(line.written_bytes)
            ),
            line.pids.to_string(),
        ]);
    }
    style::table(&rows)
}

/// Lists a container's processes.
pub(super) fn top(root: &Root, name: &Name) -> Outcome {
    let (_, _, client) = connect(root, &name.name)?;
    if let Answer::Pids(pids) = client.ask(Request::Top)? {
        for pid in pids {
            println!("{pid}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

//! Samples, and what is said of them.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::run::{self, Outcome};

/// What each interval is, for whoever reads the figures.
const INTERVALS: [(&str, &str); 8] = [
    (
        "start",
        "from starting the command (bare boot: the monitor) to the first byte the workload wrote; \
         layers cached",
    ),
    (
        "compute",
        "a shell loop of 200000 additions, from the byte before it to the byte after it",
    ),
    (
        "pod start",
        "from RunPodSandbox to the workload's first byte in its log, with a CNI bridge; bare boot \
         as above",
    ),
    (
        "pod start, 4 at once",
        "the same of each of four started at the same moment",
    ),
    (
        "pod start, 10 at once",
        "the same of each of ten started at the same moment",
    ),
    (
        "pod start, 30 there",
        "the same beside thirty pods that do nothing",
    ),
    ("pod exec", "ExecSync of `true`"),
    (
        "pod removal",
        "StopPodSandbox and RemovePodSandbox, the workload killed at once",
    ),
];

/// Everything that was measured.
pub(super) struct Report {
    conditions: Value,
    figures: BTreeMap<&'static str, Value>,
    samples: BTreeMap<&'static str, Vec<(String, Vec<f64>)>>,
    failures: Vec<String>,
}

impl Report {
    pub(super) fn new(rounds: u32) -> Self {
        Self {
            conditions: conditions(rounds),
            figures: BTreeMap::new(),
            samples: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, name: &'static str, value: Value) {
        self.figures.insert(name, value);
    }

    /// Figures of pods: samples in milliseconds, and the rest.
    pub(super) fn pods(&mut self, who: &'static str, mut figures: Value) {
        let boot = self.values("start", "bare boot");
        for (key, what) in [
            ("start_ms", "pod start"),
            ("start_of_4_at_once_ms", "pod start, 4 at once"),
            ("start_of_10_at_once_ms", "pod start, 10 at once"),
            ("start_beside_standing_ms", "pod start, 30 there"),
            ("exec_ms", "pod exec"),
            ("stop_and_remove_ms", "pod removal"),
        ] {
            let values = figures[key].take();
            let values = values.as_array().into_iter().flatten();
            let values: Vec<_> = values.filter_map(Value::as_f64).collect();
            if values.is_empty() {
                continue;
            }
            let all = self.samples.entry(what).or_default();
            if all.is_empty() && what == "pod start" {
                all.push(("bare boot".to_owned(), boot.clone()));
            }
            all.push((who.to_owned(), values));
        }
        if let Some(map) = figures.as_object_mut() {
            map.retain(|_, value| !value.is_null());
        }
        self.add(who, figures);
    }

    fn values(&self, what: &str, who: &str) -> Vec<f64> {
        let all = self.samples.get(what).into_iter().flatten();
        let mut own = all.filter(|(name, _)| name == who);
        own.next()
            .map(|(_, values)| values.clone())
            .unwrap_or_default()
    }

    /// What could not be measured.
    pub(super) fn failed(&mut self, error: String) {
        if !self.failures.contains(&error) {
            self.failures.push(error);
        }
    }

    /// A sample in milliseconds; a contender that fails is named, not hidden.
    pub(super) fn sample(&mut self, what: &'static str, who: &str, took: Outcome<Duration>) {
        let millis = match took {
            Ok(took) => took.as_secs_f64() * 1000.0,
            Err(error) => return self.failed(error),
        };
        let all = self.samples.entry(what).or_default();
        match all.iter_mut().find(|(name, _)| name == who) {
            Some((_, values)) => values.push(millis),
            None => all.push((who.to_owned(), vec![millis])),
        }
    }

    pub(super) fn print(&self) {
        println!("\nconditions: {:#}", self.conditions);
        for (what, meaning) in INTERVALS {
            let Some(all) = self.samples.get(what) else {
                continue;
            };
            println!("\n{what}: {meaning}");
            println!(
                "{:<18} {:>9} {:>9} {:>9}  ratio",
                "", "median", "least", "most"
            );
            let base = all.first().map_or(1.0, |(_, values)| median(values));
            for (who, values) in all {
                let middle = median(values);
                let (least, most) = range(values);
                let ratio = middle / base;
                println!("{who:<18} {middle:>6.1} ms {least:>6.1} ms {most:>6.1} ms  {ratio:.2}");
            }
        }
        for (name, value) in &self.figures {
            println!("\n{name}: {value:#}");
        }
        for failure in &self.failures {
            println!("\nnot measured: {failure}");
        }
    }

    pub(super) fn to_json(&self) -> String {
        let samples: BTreeMap<_, _> = self
            .samples
            .iter()
            .map(|(what, all)| {
                let by_name: BTreeMap<_, _> = all
                    .iter()
                    .map(|(who, values)| {
                        let (least, most) = range(values);
                        let entry = json!({
                            "median_ms": median(values), "least_ms": least, "most_ms": most,
                            "samples_ms": values,
                        });
                        (who, entry)
                    })
                    .collect();
                (what, by_name)
            })
            .collect();
        let all = json!({
            "conditions": self.conditions,
            "intervals": INTERVALS.into_iter().collect::<BTreeMap<_, _>>(),
            "samples": samples,
            "figures": self.figures,
            "not_measured": self.failures,
        });
        format!("{all:#}\n")
    }
}

/// On what, and how busy it is.
pub(super) fn conditions(rounds: u32) -> Value {
    let first_line = |program: &str, args: &[&str]| -> Option<String> {
        let output = Command::new(program)
            .args(args)
            .current_dir(run::workspace())
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().next().map(str::to_owned)
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, model)| model.to_owned());
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    json!({
                "processor": model,
                "processors": std::thread::available_parallelism().map_or(0, usize::from),
                "memory": memory.lines().next(),
                "host_kernel": first_line("uname", &["-r"]),
                "qemu": first_line("qemu-system-x86_64", &["--version"]),
                "runc": first_line("runc", &["--version"]),
                "crun": first_line("crun", &["--version"]),
                "runsc": first_line("runsc", &["--version"]),
                "accelerator": std::env::var("BULKHEAD_ACCEL").unwrap_or_else(|_| "auto".into()),
                "commit": first_line("git", &["describe", "--always", "--dirty"]),
                "load": std::fs::read_to_string("/proc/loadavg").ok(),
                "rounds": rounds,
    })
}

pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    (least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_median() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(range(&[2.0, 1.0, 3.0]), (1.0, 3.0));
    }
}

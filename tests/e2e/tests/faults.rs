//! Any process killed at any moment: the state says what died, and nothing is
//! left.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bulkhead_e2e::{Host, image, next};

/// Kills in the walk; each is a container of its own.
const INJECTIONS: u64 = 200;

/// After a kill the truth has to be told within this.
const TRUTH: Duration = Duration::from_secs(1);

/// Who is killed.
const VICTIMS: [&str; 5] = [
    "qemu-system",
    "bulkhead-supervisor",
    "bulkhead-file-server",
    "passt",
    "run",
];

/// Pids below a host's directory whose arguments begin with a word.
fn pids(host: &Host, word: &str) -> Vec<i32> {
    let lines = host.processes();
    let fits = lines.iter().filter_map(|line| {
        let (pid, args) = line.split_once(' ')?;
        args.contains(word).then(|| pid.parse().unwrap())
    });
    fits.collect()
}

#[test]
fn whatever_is_killed_whenever_nothing_is_left_and_the_state_is_true() {
    let host = Host::new();
    let image = image();
    let shared = tempfile::tempdir().unwrap();
    let volume = format!("{}:/data", shared.path().display());
    // The image is converted once; the walk is about containers.
    assert_eq!(host.run(&[], "true").code, 0);
    let mut seed = 2026;
    let mut hits = HashMap::new();
    for number in 0..INJECTIONS {
        let victim = VICTIMS[(next(&mut seed) % VICTIMS.len() as u64) as usize];
        let delay = Duration::from_millis(next(&mut seed) % 1300);
        let name = format!("c{number}");
        let mut child = host
            .command(&[
                "run",
                "--name",
                &name,
                "--volume",
                &volume,
                &image,
                "sh",
                "-c",
                "echo x > /data/file; sleep 0.2",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while start.elapsed() < delay {
            std::thread::sleep(Duration::from_millis(5));
        }
        let targets = if victim == "run" {
            vec![child.id().cast_signed()]
        } else {
            pids(&host, victim)
        };
        for pid in &targets {
            let _ = std::process::Command::new("kill")
                .args(["-9", &pid.to_string()])
                .status();
            *hits.entry(victim).or_insert(0u64) += 1;
        }
        if victim != "run" {
            child.wait().unwrap();
        } else {
            let _ = child.kill();
            let _ = child.wait();
        }
        check(&host, &name, victim, number);
    }
    // A kill before the victim exists or after it ended finds nobody.
    for victim in VICTIMS {
        assert!(
            hits.get(victim).copied().unwrap_or(0) > INJECTIONS / 25,
            "too few kills found their victim: {hits:?}"
        );
    }
}

/// What the supervisors of what is there have said.
fn log(host: &Host) -> String {
    let read = |dir: &std::path::PathBuf| std::fs::read_to_string(dir.join("supervisor.log"));
    host.leftovers()
        .iter()
        .filter_map(|dir| read(dir).ok())
        .collect()
}

fn check(host: &Host, name: &str, victim: &str, number: u64) {
    let told = Instant::now();
    // A killed foreground leaves a container that runs on for a moment.
    let patience = if victim == "run" {
        Duration::from_secs(10)
    } else {
        TRUTH
    };
    loop {
        let answer = host.bulkhead(&["ps", "--all", "--format", "json"]);
        let all: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
        let own = all
            .as_array()
            .unwrap()
            .iter()
            .find(|line| line["name"] == name);
        match own {
            // Killed before it was made.
            None => break,
            Some(line) if line["status"] == "exited" => {
                assert!(line["exit_code"].is_i64(), "{number}: {line}");
                if line["exit_code"] == 255 {
                    assert!(line["reason"].is_string(), "{number}: {line}");
                }
                break;
            }
            Some(line) => assert!(
                told.elapsed() < patience,
                "{number}: {victim} was killed and `{name}` says {line}; {:?}; {}",
                host.processes(),
                log(host)
            ),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = host.bulkhead(&["rm", "--force", name]);
    let deadline = Instant::now() + TRUTH;
    while !(host.leftovers().is_empty() && host.processes().is_empty()) {
        assert!(
            Instant::now() < deadline,
            "{number}: after {victim}: {:?} {:?}",
            host.leftovers(),
            host.processes()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

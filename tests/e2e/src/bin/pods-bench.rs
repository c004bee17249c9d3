//! Measures pods of one runtime handler through a real containerd, and prints
//! what it measured as JSON. `cargo xtask bench` runs it, once for each handler
//! (`BULKHEAD_E2E_HANDLER`). Arguments: rounds, pods that stand by at the end, pods
//! started at the same moment at most.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_e2e::{Node, Pod};
use rustix::fs::inotify;
use serde_json::json;

/// Commands executed in a row.
const EXECS: usize = 20;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let number = |position: usize| std::env::args().nth(position)?.parse().ok();
    let rounds: usize = number(1).unwrap_or(5);
    let standing: usize = number(2).unwrap_or(5);
    let most: usize = number(3).unwrap_or(10);
    let node = Node::start().await;
    // Everything is in the page cache and in containerd's once.
    remove(start(&node, "first").await.0).await;

    let (mut starts, mut removals, mut execs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let (pod, took) = start(&node, &format!("one{round}")).await;
        starts.push(millis(took));
        execs.extend(exec(&pod, &format!("exec{round}")).await);
        removals.push(millis(remove(pod).await));
    }
    let rounds_of = |count| match count <= most {
        true => rounds.div_ceil(count / 2),
        false => 0,
    };
    let four = at_once(&node, rounds_of(4), 4).await;
    let ten = at_once(&node, rounds_of(10), 10).await;
    let before = available();
    let mut pods = Vec::new();
    for number in 0..standing {
        pods.push(start(&node, &format!("standing{number}")).await.0);
    }
    let host = before.saturating_sub(available()) / standing.max(1) as u64;
    let shims = node.shims();
    let share = shims.iter().map(|pid| pss(*pid)).sum::<u64>() / shims.len().max(1) as u64;
    let beside: u64 = node.monitors().iter().map(|pid| without_guest(*pid)).sum();
    let mut late = Vec::new();
    let stand = standing > 0;
    for round in (0..rounds).filter(|_| stand) {
        let (pod, took) = start(&node, &format!("late{round}")).await;
        late.push(millis(took));
        remove(pod).await;
    }
    let result = json!({
        "start_ms": starts,
        "start_of_4_at_once_ms": four,
        "start_of_10_at_once_ms": ten,
        "start_beside_standing_ms": late,
        "exec_ms": execs,
        "stop_and_remove_ms": removals,
        "standing_pods": stand.then_some(standing),
        "shim_pss_kib": stand.then_some(share),
        "monitor_private_kib": stand.then_some(beside / node.monitors().len().max(1) as u64),
        "host_memory_of_a_pod_kib": stand.then_some(host),
    });
    for pod in pods {
        remove(pod).await;
    }
    println!("{result}");
}

/// From RunPodSandbox to the first byte of the workload in its log.
async fn start<'a>(node: &'a Node, name: &str) -> (Pod<'a>, Duration) {
    let begin = Instant::now();
    let pod = node.pod(name).await;
    let logs = node.path().join("logs").join(name);
    let first = tokio::task::spawn_blocking(move || first_byte(&logs));
    pod.start("app", "echo up; exec sleep 100000").await;
    let at = first.await.expect("the log is watched");
    (pod, at - begin)
}

/// When something was written to the log in a directory. inotify(7).
fn first_byte(logs: &Path) -> Instant {
    let watch: OwnedFd = inotify::init(inotify::CreateFlags::CLOEXEC).expect("inotify");
    inotify::add_watch(&watch, logs, inotify::WatchFlags::MODIFY).expect("the logs are there");
    let written = || {
        let log = std::fs::metadata(logs.join("app.log"));
        log.is_ok_and(|log| log.len() > 0)
    };
    let mut space = [std::mem::MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watch, &mut space);
    while !written() {
        events.next().expect("the watch lasts");
    }
    Instant::now()
}

/// StopPodSandbox and RemovePodSandbox of a workload that is not asked to end.
async fn remove(pod: Pod<'_>) -> Duration {
    let begin = Instant::now();
    pod.remove().await.expect("a pod is removed");
    begin.elapsed()
}

async fn exec(pod: &Pod<'_>, name: &str) -> Vec<f64> {
    let container = pod.start(name, "exec sleep 100000").await;
    let mut times = Vec::new();
    for _ in 0..EXECS {
        let begin = Instant::now();
        let done = container.run(&["/bin/true"]).await.expect("it runs");
        assert_eq!(done.code, 0);
        times.push(millis(begin.elapsed()));
    }
    times
}

/// Each of some started at the same moment.
async fn at_once(node: &Node, rounds: usize, count: usize) -> Vec<f64> {
    let mut times = Vec::new();
    for round in 0..rounds {
        let names: Vec<_> = (0..count)
            .map(|n| format!("many{count}-{round}-{n}"))
            .collect();
        let all = names.iter().map(|name| start(node, name));
        for (pod, took) in futures::future::join_all(all).await {
            times.push(millis(took));
            remove(pod).await;
        }
    }
    times
}

fn millis(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e5).round() / 100.0
}

/// MemAvailable, KiB. proc_meminfo(5).
fn available() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    sum(&text, "MemAvailable:")
}

/// Proportional share of what is resident, KiB. proc_pid_smaps(5).
fn pss(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/smaps_rollup");
    sum(&std::fs::read_to_string(path).unwrap_or_default(), "Pss:")
}

/// Private memory of a monitor that is not its guest's, KiB.
fn without_guest(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let mut own = String::new();
    let mut guest = false;
    for line in text.lines() {
        if line
            .split(' ')
            .next()
            .is_some_and(|word| word.contains('-'))
        {
            guest = line.contains("memfd");
        } else if !guest {
            own.push_str(line);
            own.push('\n');
        }
    }
    sum(&own, "Private_Dirty:") + sum(&own, "Private_Clean:")
}

fn sum(text: &str, key: &str) -> u64 {
    let values = text.lines().filter_map(|line| line.strip_prefix(key));
    values
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

//! A pod's life with one process of it killed, whichever and whenever: the next
//! pod is well and nothing is left.

use std::collections::BTreeMap;
use std::time::Duration;

use bulkhead_e2e::{Node, in_machine, next};

/// Kills in the walk; each is a pod of its own.
const INJECTIONS: u64 = 40;

/// A life takes about as long.
const LIFE: u64 = 2500;

/// containerd takes away what a killed shim left when it hears of it, and
/// tells nobody when it has done so.
const CLEANED: Duration = Duration::from_secs(5);

/// Every call of a short life. What fails after a kill may fail; it has to end.
async fn life(node: &Node, name: &str) -> Result<(), tonic::Status> {
    let pod = node.pod_with(name, |_| ()).await?;
    let app = pod.start_with("app", "sleep 1000", |_| ()).await?;
    app.run(&["/bin/true"]).await?;
    let other = pod.start_with("other", "exit 0", |_| ()).await?;
    app.stop(0).await?;
    app.remove().await?;
    // Between a task's end and its note of it containerd refuses the removal: the
    // container runs, and has no task to be stopped.
    other.known_to_have_ended().await?;
    other.remove().await?;
    pod.remove().await
}

/// Kills the processes of a kind; how many there were.
fn kill(pids: &[u32]) -> usize {
    for pid in pids {
        let number = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a pid is none of 0");
        // It may have ended by itself meanwhile.
        let _ = rustix::process::kill_process(number, rustix::process::Signal::KILL);
    }
    pids.len()
}

#[tokio::test]
async fn whatever_is_killed_whenever_nothing_is_left() {
    if !in_machine() {
        return;
    }
    let mut node = Node::start().await;
    let mut seed = 2026;
    let mut hits: BTreeMap<&str, usize> = BTreeMap::new();
    for number in 0..INJECTIONS {
        let delay = Duration::from_millis(next(&mut seed) % LIFE);
        let victim = ["monitor", "shim", "file server", "containerd"][(number % 4) as usize];
        let name = format!("p{number}");
        let (killed, cleaners) = {
            let blow = async {
                tokio::time::sleep(delay).await;
                let cleaners = node.cleaners().len();
                let killed = match victim {
                    "monitor" => kill(&node.monitors()),
                    "shim" => kill(&node.shims()),
                    "file server" => kill(&node.file_servers()),
                    _ => kill(&node.containerd()),
                };
                (killed, cleaners)
            };
            let (_, killed) = tokio::join!(life(&node, &name), blow);
            killed
        };
        *hits.entry(victim).or_default() += killed;
        if victim == "containerd" {
            node.kill_containerd();
            node.start_containerd().await;
        }
        if let Err(error) = node.remove_all().await {
            panic!("{victim} killed after {delay:?}: {error}");
        }
        let mut left = node.left_after(CLEANED).await;
        let cleaner_killed = victim == "shim" && cleaners > 0;
        let forgotten = |path: &String| match cleaner_killed {
            true => path.starts_with('/'),
            false => path.starts_with(bulkhead_e2e::PODS),
        };
        if left.iter().all(forgotten) && !left.is_empty() {
            // Of a shim that died before containerd had connected to it, which has
            // nobody clean up then, or whose cleaner was killed as well: the next
            // pod does.
            if let Err(error) = life(&node, &format!("after{number}")).await {
                panic!("{victim} killed after {delay:?}, the next pod: {error}");
            }
            left = node.left_after(CLEANED).await;
        }
        assert!(left.is_empty(), "{victim} killed after {delay:?}: {left:?}");
    }
    // A walk that hit nobody has shown nothing.
    assert!(hits.values().all(|count| *count > 0), "{hits:?}");
    life(&node, "last").await.unwrap();
}

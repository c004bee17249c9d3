//! A node's life with the agent's own program, against an API server that
//! enforces its role, on a machine that is a directory.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod stage;

use std::collections::BTreeSet;

use bulkhead_apiserver::Fault;
use bulkhead_kataconfig::{Action, KataNodeStatus, NodePhase};
use serde_json::json;

use stage::{Stage, USER, documents};

fn phase(told: &KataNodeStatus, phase: NodePhase) -> bool {
    told.phase == phase
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_looked_at_installed_mended_and_left_as_it_was() {
    let mut stage = Stage::new().await;
    let before = stage.files();
    stage.start();
    stage.create(json!({})).await;
    let looked = stage
        .until("a look", |told| !told.preflight.is_empty())
        .await;
    assert_eq!(
        (looked.phase, looked.observed_generation),
        (NodePhase::Idle, Some(1))
    );
    assert!(
        looked.preflight.iter().all(|check| check.passed),
        "{looked:?}"
    );
    assert!(looked.kernel.is_some() && looked.virtualization.is_some());
    assert_eq!(stage.files(), before);

    stage.order(Action::Install, json!({})).await;
    let ready = stage
        .until("Ready", |told| phase(told, NodePhase::Ready))
        .await;
    assert_eq!(ready.version.as_deref(), Some("1.0.0"));
    assert_eq!(ready.handlers, ["kata"]);
    assert_eq!((ready.last_error, ready.retries), (None, 0));
    assert_eq!(stage.restarts(), 1);
    assert!(stage.config().contains("runtimes.kata]"));

    // Somebody breaks it, and it is noticed and mended without an order.
    let good = stage.files();
    let generation = ready.observed_generation;
    std::fs::write(stage.home().join("current/bulkhead"), "another").unwrap();
    stage.until_files(&good).await;
    let mended = stage
        .until("Ready", |told| phase(told, NodePhase::Ready))
        .await;
    assert_eq!(mended.observed_generation, generation);

    stage.order(Action::Uninstall, json!({})).await;
    let removed = stage
        .until("Removed", |told| phase(told, NodePhase::Removed))
        .await;
    assert_eq!((removed.version, removed.handlers), (None, Vec::new()));
    assert_eq!(stage.files(), before);
    every_right_was_used(&stage);
    assert!(stage.stop().success());
}

/// The role holds nothing that no code path uses, and nothing else was asked
/// for.
fn every_right_was_used(stage: &Stage) {
    let own = stage.server.requests().into_iter();
    let used: BTreeSet<_> = own
        .filter(|request| request.user == USER)
        .map(|request| {
            let resource = match request.subresource.as_str() {
                "" => request.resource,
                sub => format!("{}/{sub}", request.resource),
            };
            (resource, request.verb)
        })
        .collect();
    let mut granted = BTreeSet::new();
    for role in documents("node-agent/rbac.yaml") {
        for rule in role["rules"].as_array().into_iter().flatten() {
            for resource in rule["resources"].as_array().unwrap() {
                for verb in rule["verbs"].as_array().unwrap() {
                    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
                    granted.insert((text(resource), text(verb)));
                }
            }
        }
    }
    assert_eq!(used, granted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_for_another_machine_is_not_carried_out() {
    let mut stage = Stage::new().await;
    let before = stage.files();
    stage.start();
    stage.create(json!({ "machineId": "another" })).await;
    stage
        .order(Action::Install, json!({ "machineId": "another" }))
        .await;
    // The next order is for this one, and the first thing it is told of.
    stage.order(Action::None, json!({})).await;
    let told = stage
        .until("a look", |told| !told.machine_id.is_empty())
        .await;
    assert_eq!(
        (told.phase, told.observed_generation),
        (NodePhase::Idle, Some(3))
    );
    assert_eq!(stage.files(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_try_is_told_and_made_again_only_when_it_is_ordered() {
    let mut stage = Stage::new().await;
    let before = stage.files();
    stage.restart_with("echo 'broken on purpose' >&2; exit 1");
    stage.start();
    stage.create(json!({})).await;
    stage.order(Action::Install, json!({})).await;
    let failed = stage
        .until("Failed", |told| phase(told, NodePhase::Failed))
        .await;
    let reason = failed.last_error.unwrap();
    assert!(reason.contains("broken on purpose"), "{reason}");
    assert_eq!(failed.retries, 1);

    stage.restart_with("");
    stage.order(Action::Install, json!({ "attempt": 1 })).await;
    let ready = stage
        .until("Ready", |told| phase(told, NodePhase::Ready))
        .await;
    assert_eq!(ready.retries, 0);
    stage
        .order(Action::Install, json!({ "version": "9.9.9" }))
        .await;
    let failed = stage
        .until("Failed", |told| phase(told, NodePhase::Failed))
        .await;
    let reason = failed.last_error.unwrap();
    assert!(
        reason.contains("9.9.9") && reason.contains("1.0.0"),
        "{reason}"
    );
    // What served before still does.
    assert_eq!(failed.version.as_deref(), Some("1.0.0"));
    assert_eq!(failed.handlers, ["kata"]);
    stage.order(Action::Uninstall, json!({})).await;
    stage
        .until("Removed", |told| phase(told, NodePhase::Removed))
        .await;
    assert_eq!(stage.files(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_finishes_what_it_began() {
    let mut stage = Stage::new().await;
    let before = stage.files();
    for (action, end) in [
        (Action::Install, NodePhase::Ready),
        (Action::Uninstall, NodePhase::Removed),
    ] {
        stage.restart_with("kill -9 $PPID");
        stage.start();
        match action {
            Action::Install => stage.create(json!({ "action": "install" })).await,
            _ => stage.order(action, json!({})).await,
        }
        assert!(!stage.wait().success());
        stage.restart_with("");
        stage.start();
        stage.until("the end", |told| phase(told, end)).await;
        assert!(stage.stop().success());
    }
    assert_eq!(stage.files(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_watches_and_refused_writes_are_lived_through() {
    let mut stage = Stage::new().await;
    stage.create(json!({})).await;
    let fault = Fault::status(500).on("patch", "katanodes/status").times(2);
    stage.server.faults().add(fault);
    stage.start();
    stage
        .until("a look", |told| !told.preflight.is_empty())
        .await;
    stage.server.faults().drop_watches("katanodes");
    stage.server.faults().forget_history();
    stage.order(Action::Install, json!({})).await;
    stage
        .until("Ready", |told| phase(told, NodePhase::Ready))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_removed_under_a_sandbox_unless_it_is_forced() {
    let mut stage = Stage::new().await;
    let before = stage.files();
    stage.install().await;
    // The payload's shim is a program that sleeps.
    let shim = stage.home().join("current/containerd-shim-bulkhead-v2");
    let mut sandbox = std::process::Command::new(shim)
        .arg("1000")
        .spawn()
        .unwrap();
    stage.order(Action::Uninstall, json!({})).await;
    let failed = stage
        .until("Failed", |told| phase(told, NodePhase::Failed))
        .await;
    let reason = failed.last_error.unwrap();
    assert!(reason.contains(&sandbox.id().to_string()), "{reason}");
    assert_eq!(failed.handlers, ["kata"]);
    stage
        .order(Action::Uninstall, json!({ "force": true }))
        .await;
    stage
        .until("Removed", |told| phase(told, NodePhase::Removed))
        .await;
    assert_eq!(stage.files(), before);
    sandbox.kill().unwrap();
    sandbox.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_that_ends_is_waited_for() {
    let mut stage = Stage::new().await;
    stage.install().await;
    let shim = stage.home().join("current/containerd-shim-bulkhead-v2");
    let mut sandbox = std::process::Command::new(shim).arg("2").spawn().unwrap();
    stage.order(Action::Uninstall, json!({})).await;
    let told = stage
        .until("an end", |told| {
            phase(told, NodePhase::Removed) || phase(told, NodePhase::Failed)
        })
        .await;
    assert_eq!(told.phase, NodePhase::Removed, "{:?}", told.last_error);
    assert!(sandbox.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_tells_prometheus_what_it_tells_the_operator() {
    let mut stage = Stage::new().await;
    // Until the API server answers, there is no order to be ready for.
    let refused = Fault::status(500).on("list", "katanodes");
    stage.server.faults().add(refused);
    stage.start();
    assert_eq!(stage.ask("/healthz").0, "200");
    let (status, why) = stage.ask("/readyz");
    assert_eq!(status, "503", "{why}");
    assert!(why.contains("order"), "{why}");
    stage.server.faults().clear();
    stage
        .create(
            json!({ "action": "install", "verification": { "enabled": false, "interval": "1h" } }),
        )
        .await;
    stage
        .until("Ready", |told| phase(told, NodePhase::Ready))
        .await;
    assert_eq!(stage.ask("/readyz").0, "200");
    let is = |stage: &Stage, name: &str, value: f64| {
        assert_eq!(
            stage.figure(name),
            Some(value),
            "{}",
            stage.ask("/metrics").1
        );
    };
    is(&stage, r#"bulkhead_node_phase{phase="Ready"}"#, 1.0);
    is(&stage, r#"bulkhead_node_version{version="1.0.0"}"#, 1.0);
    is(&stage, r#"bulkhead_node_handler{handler="kata"}"#, 1.0);
    is(
        &stage,
        "bulkhead_node_verification_interval_seconds",
        3600.0,
    );
    let verified = stage.figure("bulkhead_node_verified_timestamp_seconds");
    assert!(verified.unwrap() > 1e9);
    // No pod was tried, so none is told of.
    assert!(!stage.ask("/metrics").1.contains("smoke_timestamp_seconds{"));

    stage.restart_with("exit 1");
    let changes = json!({ "handlers": [{ "name": "kata" }, { "name": "kata-big" }] });
    stage.order(Action::Install, changes).await;
    stage
        .until("Failed", |told| phase(told, NodePhase::Failed))
        .await;
    is(&stage, r#"bulkhead_node_phase{phase="Failed"}"#, 1.0);
    is(&stage, r#"bulkhead_node_handler{handler="kata-big"}"#, 0.0);
    let count = |result: &str| {
        let labels = format!(r#"work="install",result="{result}""#);
        format!("bulkhead_node_work_seconds_count{{{labels}}}")
    };
    is(&stage, &count("done"), 1.0);
    is(&stage, &count("failed"), 1.0);
}

/// Prints what an agent costs its node, for `cargo xtask bench --operator`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn an_agent_costs() {
    /// As much as the tuned guest and the release's programs take.
    const PAYLOAD: u64 = 64 << 20;
    let mut stage = Stage::new().await;
    stage.weigh(PAYLOAD);
    stage.start();
    stage.create(json!({})).await;
    stage
        .until("a look", |told| !told.preflight.is_empty())
        .await;
    let idle = stage.memory("VmRSS");
    let begun = std::time::Instant::now();
    stage.order(Action::Install, json!({})).await;
    stage
        .until("Ready", |told| phase(told, NodePhase::Ready))
        .await;
    let figures = json!({
        "resident_idle_kib": idle,
        "resident_installed_kib": stage.memory("VmRSS"),
        "resident_peak_kib": stage.memory("VmHWM"),
        "install_s": begun.elapsed().as_secs_f64(),
        "payload_mib": PAYLOAD >> 20,
    });
    println!("\nfigures: {figures}");
}

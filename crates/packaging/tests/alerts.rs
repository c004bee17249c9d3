//! Alerts and dashboards: Prometheus reads them, alerts come when they should,
//! and each tells where its page is.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod stage;

use std::collections::BTreeSet;
use std::process::Command;

use k8s_openapi::serde_json::{self, Value, json};

use stage::{deploy, objects, output, workspace};

const PROMTOOL: &str = "`apt install prometheus`";

fn groups() -> Value {
    let text = std::fs::read_to_string(deploy().join("prometheus/rules.yaml")).unwrap();
    objects(&text).remove(0)["spec"]["groups"].take()
}

fn alerts() -> Vec<Value> {
    let groups = groups();
    let groups = groups.as_array().unwrap().iter();
    groups
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

/// Title and query of everything the dashboards ask for, their variables
/// replaced.
fn queries() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for file in ["fleet.json", "pod.json"] {
        let text = std::fs::read_to_string(deploy().join("grafana").join(file)).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        let list = dashboard["templating"]["list"].as_array().unwrap();
        let names: Vec<_> = list.iter().map(|v| v["name"].as_str().unwrap()).collect();
        let mut ids = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{file}: ids");
            for target in panel["targets"].as_array().unwrap() {
                let mut query = target["expr"].as_str().unwrap().to_owned();
                for name in &names {
                    query = query.replace(&format!("${name}"), "x");
                }
                assert!(!query.contains('$'), "{file}: {query}");
                all.push((panel["title"].as_str().unwrap().to_owned(), query));
            }
        }
    }
    all
}

fn promtool(args: &[&str], file: &Value, extra: Option<&Value>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.json");
    std::fs::write(&path, file.to_string()).unwrap();
    if let Some(rules) = extra {
        std::fs::write(dir.path().join("rules.json"), rules.to_string()).unwrap();
    }
    let mut command = Command::new("promtool");
    output(command.args(args).arg(path), PROMTOOL)
}

#[test]
fn prometheus_reads_alerts_and_what_dashboards_ask() {
    let rules = json!({ "groups": groups() });
    let told = promtool(&["check", "rules"], &rules, None);
    assert!(
        told.contains(&format!("{} rules found", alerts().len())),
        "{told}"
    );
    let asked = queries();
    assert!(asked.len() > 20);
    let rules: Vec<_> = asked
        .iter()
        .enumerate()
        .map(|(number, (_, query))| json!({ "record": format!("q{number}"), "expr": query }))
        .collect();
    let rules = json!({ "groups": [{ "name": "dashboards", "rules": rules }] });
    promtool(&["check", "rules"], &rules, None);
}

#[test]
fn each_alert_has_its_page() {
    let mut pages = BTreeSet::new();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        let url = alert["annotations"]["runbook_url"].as_str().unwrap();
        let (file, anchor) = url.split_once('#').unwrap();
        assert_eq!(anchor, name.to_lowercase());
        let text = std::fs::read_to_string(workspace().join(file)).unwrap();
        let heading = format!("\n## {name}\n");
        assert!(text.contains(&heading), "{file} has no `## {name}`");
        assert!(pages.insert(name.to_owned()), "{name} twice");
        let severity = alert["labels"]["severity"].as_str().unwrap();
        assert!(["info", "warning", "critical"].contains(&severity));
    }
    let text = std::fs::read_to_string(workspace().join("docs/guides/runbooks.md")).unwrap();
    let sections = text.lines().filter_map(|line| line.strip_prefix("## "));
    let sections: BTreeSet<_> = sections.map(str::to_owned).collect();
    assert_eq!(sections, pages, "sections and alerts");
}

/// A metric over the minutes of a test, in promtool's notation.
fn series(metric: &str, values: &str) -> Value {
    json!({ "series": metric, "values": values })
}

/// Asks at a minute which of an alert's instances fire.
fn expect(name: &str, minute: u32, labels: Option<Value>) -> Value {
    let rule = alerts().into_iter().find(|alert| alert["alert"] == name);
    let rule = rule.unwrap();
    let mut firing = Vec::new();
    if let Some(mut labels) = labels {
        labels["severity"] = rule["labels"]["severity"].clone();
        let mut text = rule["annotations"]["summary"].as_str().unwrap().to_owned();
        for (key, value) in labels.as_object().unwrap() {
            let place = format!("{{{{ $labels.{key} }}}}");
            text = text.replace(&place, value.as_str().unwrap());
        }
        text = text.replace("{{ $value }}", "2");
        text = text.replace("{{ $value | humanize1024 }}", "512Mi");
        let took = match name {
            "BulkheadNodeUnverified" => "3h 16m 0s",
            _ => "40s",
        };
        text = text.replace("{{ $value | humanizeDuration }}", took);
        let url = rule["annotations"]["runbook_url"].clone();
        firing.push(json!({ "exp_labels": labels,
            "exp_annotations": { "summary": text, "runbook_url": url } }));
    }
    json!({ "eval_time": format!("{minute}m"), "alertname": name, "exp_alerts": firing })
}

fn nodes(state: &str, values: &str) -> Value {
    let metric = format!(r#"bulkhead_operator_nodes{{kataconfig="k",state="{state}"}}"#);
    series(&metric, values)
}

fn condition(kind: &str) -> Value {
    let metric = format!(r#"bulkhead_operator_condition{{kataconfig="k",type="{kind}"}}"#);
    series(&metric, "1x120")
}

#[test]
fn alerts_come_when_they_should_and_not_before() {
    let k = || Some(json!({ "kataconfig": "k" }));
    let pod = || json!({ "namespace": "n", "pod": "p", "id": "i" });
    let own = r#"{namespace="n",pod="p",id="i"}"#;
    let gib = 1u64 << 30;
    let input = vec![
        nodes("failedToInstall", "2x120"),
        nodes("installing", "1x120"),
        nodes("installed", "5x120"),
        nodes("orphaned", "2x120"),
        series(
            r#"bulkhead_operator_nodes_without_handler{kataconfig="k"}"#,
            "2x120",
        ),
        series(
            "bulkhead_operator_overhead_bytes{runtimeclass=\"kata\"}",
            "366999999x120",
        ),
        series(
            r#"up{job="bulkhead-system/bulkhead-node-agent",node="w"}"#,
            "1x59 0x60",
        ),
        // Verified when it began and not again; another is not ready, a third is.
        series(
            r#"bulkhead_node_verified_timestamp_seconds{node="w"}"#,
            "0x300",
        ),
        series(
            r#"bulkhead_node_verification_interval_seconds{node="w"}"#,
            "3600x300",
        ),
        series(r#"bulkhead_node_phase{node="w",phase="Ready"}"#, "1x300"),
        series(
            r#"bulkhead_node_verified_timestamp_seconds{node="v"}"#,
            "0x300",
        ),
        series(
            r#"bulkhead_node_verification_interval_seconds{node="v"}"#,
            "3600x300",
        ),
        series(r#"bulkhead_node_phase{node="v",phase="Ready"}"#, "0x300"),
        series(r#"bulkhead_node_mends_total{node="w"}"#, "0x99 3x20"),
        series(
            r#"bulkhead_operator_nodes_outdated{kataconfig="k"}"#,
            "2x1500",
        ),
        condition("Degraded"),
        condition("Blocked"),
        series(r#"bulkhead_operator_leader{instance="a"}"#, "1x59 0x60"),
        series(r#"bulkhead_operator_leader{instance="b"}"#, "0x120"),
        series(
            r#"bulkhead_operator_writes_total{kind="status",result="failed"}"#,
            "0+1x120",
        ),
        series(
            r#"up{job="bulkhead-system/bulkhead-monitor",node="w"}"#,
            "1x59 0x60",
        ),
        series(
            &format!("bulkhead_pod_memory_bytes{own}"),
            &format!("{gib}x120"),
        ),
        series(
            &format!("bulkhead_pod_overhead_bytes{own}"),
            &format!("{}x120", 128 << 20),
        ),
        series(
            &format!("bulkhead_pod_monitor_resident_bytes{own}"),
            &format!("{}x120", gib + (448 << 20)),
        ),
        series(
            &format!("bulkhead_pod_shim_resident_bytes{own}"),
            &format!("{}x120", 64 << 20),
        ),
        series(
            r#"bulkhead_pod_start_phase_seconds{node="w",namespace="n",pod="p",id="i",phase="kernel"}"#,
            "35x120",
        ),
        series(
            r#"bulkhead_pod_start_phase_seconds{node="w",namespace="n",pod="p",id="i",phase="disk"}"#,
            "5x120",
        ),
        series(
            r#"bulkhead_container_oom_kills_total{namespace="n",pod="p",id="i",container="c"}"#,
            "0x59 1x60",
        ),
    ];
    let failed = Some(json!({ "kataconfig": "k", "state": "failedToInstall" }));
    let with = |key: &str, value: &str| {
        let mut labels = pod();
        labels[key] = value.into();
        Some(labels)
    };
    let node = || Some(json!({ "node": "w" }));
    let agent = json!({ "job": "bulkhead-system/bulkhead-node-agent", "node": "w" });
    let monitor = json!({ "job": "bulkhead-system/bulkhead-monitor", "node": "w" });
    let cases = [
        expect("BulkheadNoLeader", 59, None),
        expect("BulkheadNoLeader", 67, Some(json!({}))),
        expect("BulkheadNodesFailed", 10, None),
        expect("BulkheadNodesFailed", 20, failed),
        expect("BulkheadInstallStuck", 50, None),
        expect("BulkheadInstallStuck", 110, k()),
        expect("BulkheadNodesOrphaned", 50, None),
        expect("BulkheadNodesOrphaned", 61, k()),
        expect("BulkheadHandlerLost", 10, None),
        expect("BulkheadHandlerLost", 16, k()),
        expect("BulkheadVersionsDiffer", 1430, None),
        expect("BulkheadVersionsDiffer", 1441, k()),
        expect("BulkheadDegraded", 20, None),
        expect("BulkheadDegraded", 31, k()),
        expect("BulkheadBlocked", 20, None),
        expect("BulkheadBlocked", 31, k()),
        expect("BulkheadWritesFail", 20, None),
        expect("BulkheadWritesFail", 45, Some(json!({ "kind": "status" }))),
        expect("BulkheadNodeAgentDown", 65, None),
        expect("BulkheadNodeAgentDown", 75, Some(agent)),
        expect("BulkheadNodeUnverified", 190, None),
        expect("BulkheadNodeUnverified", 196, node()),
        expect("BulkheadNodeDrifts", 98, None),
        expect("BulkheadNodeDrifts", 105, node()),
        expect("BulkheadMonitorDown", 65, None),
        expect("BulkheadMonitorDown", 75, Some(monitor)),
        expect("BulkheadProcessKilledForMemory", 50, None),
        expect("BulkheadProcessKilledForMemory", 62, with("container", "c")),
        expect("BulkheadOverheadExceeded", 10, None),
        expect("BulkheadOverheadExceeded", 16, Some(pod())),
        expect("BulkheadPodStartsSlowly", 1, with("node", "w")),
    ];
    let tried: BTreeSet<_> = cases
        .iter()
        .filter(|case| case["exp_alerts"] != json!([]))
        .map(|case| case["alertname"].as_str().unwrap())
        .collect();
    assert_eq!(tried.len(), alerts().len(), "an alert that is not tried");
    let file = json!({
        "rule_files": ["rules.json"],
        "evaluation_interval": "1m",
        "tests": [{ "interval": "1m", "input_series": input, "alert_rule_test": cases }],
    });
    promtool(
        &["test", "rules"],
        &file,
        Some(&json!({ "groups": groups() })),
    );
}

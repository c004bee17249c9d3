use std::path::{Path, PathBuf};

use kube::CustomResourceExt;
use kube::core::cel::{validate_cel, validate_cel_update};
use serde_json::json;

use super::*;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

#[expect(clippy::needless_pass_by_value, reason = "shorter where it is called")]
fn config(spec: serde_json::Value) -> KataConfig {
    serde_json::from_value(json!({
        "apiVersion": "kataconfiguration.openshift.io/v1",
        "kind": "KataConfig",
        "metadata": {"name": "example"},
        "spec": spec,
    }))
    .unwrap()
}

/// The complaint about a spec; empty when it is accepted.
fn complaint(spec: serde_json::Value) -> String {
    match validate_cel(&config(spec)) {
        Ok(()) => String::new(),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn the_definitions_in_deploy_are_those_of_the_types() {
    for crd in crds() {
        let path = deploy().join(format!("crds/{}.yaml", crd.spec.names.plural));
        let text = format!(
            "# Generated from crates/kataconfig; `BLESS=1 cargo test -p bulkhead-kataconfig`.\n{}",
            serde_saphyr::to_string(&crd).unwrap()
        );
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == text, "{} is old; run with BLESS=1", path.display());
    }
}

#[test]
fn names_scopes_and_columns_are_those_of_the_osc_operator() {
    let crd = KataConfig::crd();
    assert_eq!(
        crd.metadata.name.as_deref(),
        Some("kataconfigs.kataconfiguration.openshift.io")
    );
    assert_eq!(crd.spec.scope, "Cluster");
    let version = &crd.spec.versions[0];
    assert!(version.subresources.as_ref().unwrap().status.is_some());
    let columns: Vec<_> = version
        .additional_printer_columns
        .iter()
        .flatten()
        .map(|column| column.name.as_str())
        .collect();
    assert_eq!(columns, ["InProgress", "Completed", "Total", "Age"]);
}

#[test]
fn every_sample_is_accepted() {
    let mut seen = 0;
    for entry in std::fs::read_dir(deploy().join("samples")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        if !text.contains("kind: KataConfig") {
            continue;
        }
        let sample: KataConfig =
            serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        validate_cel(&sample).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        seen += 1;
    }
    assert!(seen >= 3, "{seen} samples");
}

#[test]
fn an_empty_spec_has_the_osc_operators_defaults() {
    let spec = config(json!({})).spec;
    assert_eq!(spec, KataConfigSpec::default());
    assert_eq!(spec.log_level, "info");
    assert!(!spec.check_node_eligibility && !spec.enable_peer_pods);
    assert!(spec.kata_config_pool_selector.is_none());
    assert_eq!(
        config(json!({"rollout": {"maxUnavailable": null}})).spec,
        spec
    );
    // What the API server fills in is what the types fill in.
    let schema = serde_json::to_value(KataConfig::crd()).unwrap();
    let spec = &schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let properties = &spec["properties"];
    assert_eq!(properties["logLevel"]["default"], "info");
    assert_eq!(properties["checkNodeEligibility"]["default"], false);
    assert_eq!(properties["rollout"]["default"]["maxUnavailable"], 1);
    assert!(spec.get("required").is_none(), "{}", spec["required"]);
}

#[test]
fn what_makes_no_sense_is_refused_with_a_sentence() {
    let cases = [
        (
            json!({"kataConfigPoolSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}),
            "In, NotIn, Exists or DoesNotExist",
        ),
        (
            json!({"kataConfigPoolSelector":
                {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
            "need values",
        ),
        (json!({"logLevel": "loud"}), "logLevel is"),
        (json!({"rollout": {"maxUnavailable": 0}}), "from 1 to 9999"),
        (
            json!({"rollout": {"maxUnavailable": "0%"}}),
            "from 1 to 9999",
        ),
        (
            json!({"rollout": {"maxUnavailable": "101%"}}),
            "from 1 to 9999",
        ),
        (
            json!({"runtimes": [{"name": "a"}, {"name": "a"}]}),
            "the same name",
        ),
        (
            json!({"runtimes": [{"name": "a", "overrides": {"k".repeat(129): "x"}}]}),
            "at most 128",
        ),
    ];
    for (spec, expected) in cases {
        let said = complaint(spec.clone());
        assert!(said.contains(expected), "{spec}: {said:?}");
    }
}

#[test]
fn what_makes_sense_is_accepted() {
    for spec in [
        json!({}),
        json!({"rollout": {"maxUnavailable": "100%"}}),
        json!({"rollout": {"maxUnavailable": 12}, "logLevel": "warn"}),
        json!({"kataConfigPoolSelector": {"matchExpressions": [
            {"key": "a", "operator": "In", "values": ["b"]}, {"key": "c", "operator": "Exists"}]}}),
    ] {
        assert_eq!(complaint(spec.clone()), "", "{spec}");
    }
}

/// The parts of a schema that hold a rule over many things.
fn ruled(schema: &serde_json::Value, found: &mut Vec<serde_json::Value>) {
    if let Some(parts) = schema.as_object() {
        let rules = schema["x-kubernetes-validations"].to_string();
        if rules.contains("self.all(") || rules.contains("matchExpressions.all(") {
            found.push(schema.clone());
        }
        parts.values().for_each(|part| ruled(part, found));
    }
}

#[test]
fn rules_over_many_things_have_a_bounded_cost() {
    let mut found = Vec::new();
    let versions = serde_json::to_value(KataConfig::crd()).unwrap();
    ruled(
        &versions["spec"]["versions"][0]["schema"]["openAPIV3Schema"],
        &mut found,
    );
    assert!(!found.is_empty());
    for schema in found {
        let own = schema.get("maxItems").or(schema.get("maxProperties"));
        let inner = schema["properties"]["matchExpressions"].get("maxItems");
        assert!(own.or(inner).is_some(), "unbounded: {schema}");
    }
}

#[test]
fn who_installs_cannot_change() {
    let old = config(json!({"nodeInstall": "nodeAgent"}));
    let new = config(json!({"nodeInstall": "preinstalled"}));
    assert!(validate_cel_update(&old, &old).is_ok());
    let said = validate_cel_update(&new, &old).unwrap_err().to_string();
    assert!(said.contains("cannot change"), "{said}");
}

#[test]
fn sizes_and_times_are_read_or_refused() {
    assert_eq!(parse_duration("90s").unwrap().as_secs(), 90);
    assert_eq!(parse_duration("2h").unwrap().as_secs(), 7200);
    assert_eq!(parse_memory("2Gi"), Some(2048));
    assert_eq!(parse_memory("350Mi"), Some(350));
    assert_eq!(millicores("250m"), Some(250));
    assert_eq!(millicores("2"), Some(2000));
    for text in ["", "m", "-1m", "1d", "+1s", "9999999s", "1 s"] {
        assert_eq!(parse_duration(text), None, "{text}");
    }
    assert_eq!(parse_memory("1.5Gi"), None);
    assert_eq!(millicores("0x1"), None);
}

#[test]
fn a_status_the_osc_operator_left_is_read() {
    let left: KataConfig = serde_json::from_value(json!({
        "apiVersion": "kataconfiguration.openshift.io/v1",
        "kind": "KataConfig",
        "metadata": {"name": "example", "finalizers": [FINALIZER]},
        "spec": {"checkNodeEligibility": true, "logLevel": "debug", "enablePeerPods": false,
                 "kataConfigPoolSelector": null, "kataMonitorImage": "monitor:1"},
        "status": {
            "runtimeClasses": ["kata"],
            "kataNodes": {"nodeCount": 2, "readyNodeCount": 1, "installed": ["a"],
                          "installing": ["b"]},
            "conditions": [{"type": "InProgress", "status": "False", "reason": "", "message": "",
                            "lastTransitionTime": "2024-10-01T10:00:00Z"}],
            "waitingForMcoToStart": true,
        },
    }))
    .unwrap();
    assert_eq!(left.spec.log_level, "debug");
    assert_eq!(left.status.unwrap().kata_nodes.installed, ["a"]);
}

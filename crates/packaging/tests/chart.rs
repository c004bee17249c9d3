//! The chart says what the manifests say, unless a release says otherwise.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod stage;

use std::collections::BTreeMap;

use k8s_openapi::serde_json::{Value, json};

use stage::{helm, identity, kustomize, release};

fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let named = objects.into_iter();
    named.map(|object| (identity(&object), object)).collect()
}

#[test]
fn a_release_without_values_is_the_overlay() {
    let mut wanted = by_name(kustomize("overlays/kubernetes"));
    wanted.retain(|_, object| {
        let kind = object["kind"].as_str().unwrap();
        // The namespace is the user's, the definitions are in the chart's `crds`.
        kind != "Namespace" && kind != "CustomResourceDefinition"
    });
    let mut made = by_name(release("bulkhead-system", &json!({})));
    for object in made.values_mut() {
        let pod = object.pointer_mut("/spec/template/spec");
        if let Some(pod) = pod.and_then(Value::as_object_mut) {
            assert_eq!(pod.remove("imagePullSecrets"), Some(json!([])));
        }
    }
    let names = |all: &BTreeMap<String, Value>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&made), names(&wanted));
    for (name, object) in wanted {
        assert_eq!(made[&name], object, "{name}");
    }
}

#[test]
fn what_a_release_says_is_where_it_belongs() {
    let values = json!({
        "operator": { "image": "registry/op:9", "replicas": 3,
            "tolerations": [{ "key": "a: b", "operator": "Exists" }] },
        "nodeAgent": { "image": "registry/agent@sha256:00", "nodeSelector": { "pool": "a" } },
        "monitor": { "resources": { "limits": { "memory": "1Gi" } } },
        "policies": { "classes": ["kata", "large"], "doubtful": false },
        "networkPolicies": { "enabled": false },
        "prometheus": { "rules": true, "monitors": true },
    });
    let made = by_name(release("tenants", &values));
    let find = |kind: &str, name: &str| {
        let mut all = made.values();
        all.find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
            .unwrap_or_else(|| panic!("no {kind} {name} in {:?}", made.keys()))
    };
    let pod = |kind, name| &find(kind, name)["spec"]["template"]["spec"];
    let operator = pod("Deployment", "bulkhead-operator");
    assert_eq!(operator["containers"][0]["image"], "registry/op:9");
    assert_eq!(operator["tolerations"][0]["key"], "a: b");
    assert_eq!(
        find("Deployment", "bulkhead-operator")["spec"]["replicas"],
        3
    );
    for name in ["bulkhead-node-agent", "bulkhead-monitor"] {
        let pod = pod("DaemonSet", name);
        assert_eq!(pod["containers"][0]["image"], "registry/agent@sha256:00");
        // Helm merges maps: the manifest's labels stay.
        assert_eq!(pod["nodeSelector"]["pool"], "a");
        assert_eq!(pod["nodeSelector"]["kubernetes.io/os"], "linux");
    }
    let policy = find("ValidatingAdmissionPolicy", "bulkhead-host-namespaces");
    let condition = &policy["spec"]["matchConditions"][0]["expression"];
    let condition = condition.as_str().unwrap();
    assert!(condition.ends_with(r#"in ["kata","large"]"#), "{condition}");
    let rules = find("PrometheusRule", "bulkhead");
    let groups = rules["spec"]["groups"].to_string();
    assert!(groups.contains("{{ $labels.kataconfig }}"), "{groups}");
    assert!(
        groups.contains(r#"job=\"tenants/bulkhead-monitor\""#),
        "{groups}"
    );
    for (name, object) in &made {
        assert_ne!(object["kind"], "NetworkPolicy");
        assert!(!name.contains("doubtful"));
        let text = object.to_string();
        assert!(!text.contains("bulkhead-system"), "{text}");
    }
}

#[test]
fn values_that_mean_nothing_are_refused() {
    for values in [
        json!({ "operator": { "replica": 2 } }),
        json!({ "operator": { "replicas": 0 } }),
        json!({ "operator": { "image": "" } }),
        json!({ "policies": { "classes": ["x'] || true"] } }),
        json!({ "monitor": { "enabled": "no" } }),
        json!({ "strange": {} }),
    ] {
        let answer = helm("bulkhead-system", &values);
        assert!(answer["refused"].is_string(), "{values} was taken");
    }
    let answer = helm("bulkhead-system", &json!({ "global": {} }));
    assert!(answer["refused"].is_null(), "{answer}");
}

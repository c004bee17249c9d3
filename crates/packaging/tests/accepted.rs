//! Every object of every way of installing is one that an API server takes.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod stage;

use std::collections::BTreeSet;

use bulkhead_apiserver::{Options, Server};
use k8s_openapi::serde_json::{self, Value, json};
use k8s_openapi::{DeepMerge, serde};

use stage::{deploy, identity, kustomize, objects, release};

/// Kinds of others, for which there are no types here.
const FOREIGN: [&str; 3] = ["SecurityContextConstraints", "PodMonitor", "PrometheusRule"];

/// Every field of an object is one its type has, with the type's own form.
fn typed<T: serde::de::DeserializeOwned + serde::Serialize + DeepMerge>(object: &Value) {
    let parsed: T = serde_json::from_value(object.clone())
        .unwrap_or_else(|error| panic!("{}: {error}", identity(object)));
    let again = serde_json::to_value(parsed).unwrap();
    contained(object, &again, &identity(object));
}

fn contained(object: &Value, again: &Value, at: &str) {
    match object {
        Value::Object(fields) => {
            for (key, value) in fields {
                contained(value, &again[key], &format!("{at}.{key}"));
            }
        }
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                contained(item, &again[number], &format!("{at}[{number}]"));
            }
        }
        Value::Number(number) => assert_eq!(number.as_f64(), again.as_f64(), "{at}"),
        other => assert_eq!(other, again, "no such field: {at}"),
    }
}

/// Checks one object by its type; the answer is whether there is one.
fn check(object: &Value) -> bool {
    use k8s_openapi::api::admissionregistration::v1 as admission;
    use k8s_openapi::api::{apps::v1 as apps, core::v1 as core, rbac::v1 as rbac};
    use k8s_openapi::api::{networking::v1::NetworkPolicy, policy::v1::PodDisruptionBudget};
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as extensions;
    match object["kind"].as_str().unwrap() {
        "Namespace" => typed::<core::Namespace>(object),
        "ServiceAccount" => typed::<core::ServiceAccount>(object),
        "ConfigMap" => typed::<core::ConfigMap>(object),
        "ClusterRole" => typed::<rbac::ClusterRole>(object),
        "ClusterRoleBinding" => typed::<rbac::ClusterRoleBinding>(object),
        "Role" => typed::<rbac::Role>(object),
        "RoleBinding" => typed::<rbac::RoleBinding>(object),
        "Deployment" => typed::<apps::Deployment>(object),
        "DaemonSet" => typed::<apps::DaemonSet>(object),
        "NetworkPolicy" => typed::<NetworkPolicy>(object),
        "PodDisruptionBudget" => typed::<PodDisruptionBudget>(object),
        "ValidatingAdmissionPolicy" => {
            typed::<admission::ValidatingAdmissionPolicy>(object);
        }
        "ValidatingAdmissionPolicyBinding" => {
            typed::<admission::ValidatingAdmissionPolicyBinding>(object);
        }
        "CustomResourceDefinition" => typed::<extensions::CustomResourceDefinition>(object),
        kind => {
            assert!(FOREIGN.contains(&kind), "{kind}: add its type here");
            return false;
        }
    }
    true
}

/// Checks all by their types, and has the server take all but foreign ones;
/// the answer is how many it took.
async fn accepted(all: Vec<Value>) -> usize {
    let server = Server::start(Options::default()).await.unwrap();
    let mut names = BTreeSet::new();
    let mut taken = 0;
    for object in all {
        let shown = identity(&object);
        assert!(names.insert(shown.clone()), "twice: {shown}");
        if check(&object) {
            let loaded = server.load(object);
            loaded.unwrap_or_else(|error| panic!("{shown}: {error:?}"));
            taken += 1;
        }
    }
    taken
}

#[tokio::test]
async fn kustomizations_are() {
    for (dir, at_least) in [("overlays/kubernetes", 20), ("overlays/openshift", 20)] {
        let taken = accepted(kustomize(dir)).await;
        assert!(taken >= at_least, "{dir}: only {taken} were taken");
    }
    for dir in ["overlays/nodes", "prometheus", "grafana"] {
        let mut all = vec![json!({ "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": "bulkhead-system" } })];
        all.extend(kustomize(dir));
        accepted(all).await;
    }
}

#[tokio::test]
async fn releases_of_the_chart_are() {
    let everything = json!({
        "policies": { "requiredClass": true, "classes": ["kata", "kata-large"] },
        "openshift": { "enabled": true },
        "prometheus": { "monitors": true, "rules": true },
        "grafana": { "dashboards": true },
        "imagePullSecrets": [{ "name": "mine" }],
    });
    for values in [json!({}), everything] {
        let mut all = vec![json!({ "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": "elsewhere" } })];
        all.extend(release("elsewhere", &values));
        let taken = accepted(all).await;
        assert!(taken >= 16, "only {taken} were taken");
    }
}

#[tokio::test]
async fn the_bundle_is() {
    let read = |name: &str| {
        let path = deploy().join("olm").join(name);
        objects(&std::fs::read_to_string(path).unwrap())
    };
    let mut all = Vec::new();
    for file in ["kataconfigs.yaml", "katanodes.yaml"] {
        all.extend(read(&format!("manifests/{file}")));
    }
    let csv = read("manifests/bulkhead-operator.clusterserviceversion.yaml").remove(0);
    let install = &csv["spec"]["install"]["spec"];
    let namespace = "operators";
    all.push(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }));
    // What OLM makes of it.
    let deployment = &install["deployments"][0];
    all.push(json!({ "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": deployment["name"], "namespace": namespace,
                      "labels": deployment["label"] },
        "spec": deployment["spec"] }));
    for (kind, list) in [
        ("Role", "permissions"),
        ("ClusterRole", "clusterPermissions"),
    ] {
        let own = &install[list][0];
        assert_eq!(own["serviceAccountName"], "bulkhead-operator");
        let mut metadata = json!({ "name": "made-by-olm" });
        if kind == "Role" {
            metadata["namespace"] = namespace.into();
        }
        all.push(
            json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
            "metadata": metadata, "rules": own["rules"] }),
        );
    }
    assert_eq!(accepted(all).await, 6);

    // What OLM wants of the rest.
    let sample = csv["metadata"]["annotations"]["alm-examples"]
        .as_str()
        .unwrap();
    let sample: Value = serde_json::from_str(sample).unwrap();
    assert_eq!(sample[0]["kind"], "KataConfig");
    let owned = csv["spec"]["customresourcedefinitions"]["owned"]
        .as_array()
        .unwrap();
    assert_eq!(owned.len(), 2);
    assert!(
        owned
            .iter()
            .all(|one| one["description"].as_str().unwrap().len() > 10)
    );
    let labels = &read("metadata/annotations.yaml")[0]["annotations"];
    let dockerfile = std::fs::read_to_string(deploy().join("olm/bundle.Dockerfile")).unwrap();
    for (key, value) in labels.as_object().unwrap() {
        let line = format!("LABEL {key}={}\n", value.as_str().unwrap());
        assert!(dockerfile.contains(&line), "{line}");
    }
}

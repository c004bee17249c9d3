//! The admission policies people may apply beside the operator.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use bulkhead_apiserver::{Options, Server};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use kube::{Client, Config};
use serde_json::{Value, json};

/// A server with some of the policies, and whatever is `changed` in them.
async fn server(file: &str, change: impl Fn(&mut Value)) -> (Server, Api<Pod>) {
    let server = Server::start(Options::default()).await.unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../deploy/policies")
        .join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let labels = json!({"bulkhead/required": "kata"});
    let metadata = json!({"name": "tenants", "labels": labels});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
    server.load(namespace).unwrap();
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
                       "metadata": {"name": "kata"}, "handler": "kata"});
    server.load(class).unwrap();
    for part in text.split("\n---\n") {
        let mut object: Value = serde_saphyr::from_str(part).unwrap();
        change(&mut object);
        server.load(object).unwrap();
    }
    let client = Client::try_from(Config::new(server.url().parse().unwrap())).unwrap();
    (server, Api::default_namespaced(client))
}

/// Makes a pod of the class with more in its spec; the refusal, if any.
async fn ask(pods: &Api<Pod>, class: Option<&str>, more: Value) -> Result<(), String> {
    let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
    if let Some(class) = class {
        spec["runtimeClassName"] = class.into();
    }
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let pod = json!({"metadata": {"generateName": "p"}, "spec": spec});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let made = pods.create(&PostParams::default(), &pod).await;
    made.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn the_hosts_namespaces_are_refused_with_the_class_only() {
    let (_server, pods) = server("host-namespaces.yaml", |_| ()).await;
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        let text = ask(&pods, Some("kata"), json!({key: true})).await;
        let text = text.unwrap_err();
        assert!(text.contains(&format!("{key} is not possible")), "{text}");
        ask(&pods, Some("kata"), json!({key: false})).await.unwrap();
        ask(&pods, None, json!({key: true})).await.unwrap();
    }
    ask(&pods, Some("kata"), json!({})).await.unwrap();
}

#[tokio::test]
async fn what_is_doubtful_is_known() {
    // The warnings as refusals: the server keeps no warnings.
    let (_server, pods) = server("doubtful.yaml", |object| {
        if object["kind"] == "ValidatingAdmissionPolicyBinding" {
            object["spec"]["validationActions"] = json!(["Deny"]);
        }
    })
    .await;
    let host = json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]});
    let text = ask(&pods, Some("kata"), host.clone()).await.unwrap_err();
    assert!(text.contains("hostPath"), "{text}");
    ask(&pods, None, host).await.unwrap();
    let privileged = json!({"containers": [
        {"name": "a", "image": "i"},
        {"name": "b", "image": "i", "securityContext": {"privileged": true}},
    ]});
    let text = ask(&pods, Some("kata"), privileged).await.unwrap_err();
    assert!(text.contains("privileged"), "{text}");
    let own = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
    ask(&pods, Some("kata"), own).await.unwrap();
}

#[tokio::test]
async fn a_namespace_may_require_the_class() {
    let (server, pods) = server("required-class.yaml", |_| ()).await;
    ask(&pods, None, json!({})).await.unwrap();
    let client = Client::try_from(Config::new(server.url().parse().unwrap())).unwrap();
    let tenants: Api<Pod> = Api::namespaced(client, "tenants");
    let text = ask(&tenants, None, json!({})).await.unwrap_err();
    assert!(text.contains("runtimeClassName: kata"), "{text}");
    ask(&tenants, Some("kata"), json!({})).await.unwrap();
}

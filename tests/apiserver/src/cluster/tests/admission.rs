use serde_json::json;

use super::super::*;
use super::{at, query};

fn pod(spec: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" }, "spec": spec })
}

fn class() -> Value {
    json!({
        "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": { "name": "vm" },
        "handler": "vm",
        "overhead": { "podFixed": { "memory": "100Mi" } },
        "scheduling": {
            "nodeSelector": { "vm": "yes" },
            "tolerations": [{ "key": "vm", "operator": "Exists" }],
        },
    })
}

#[test]
fn a_pod_gets_what_its_runtime_class_says() {
    let mut cluster = Cluster::new(100);
    let asks = pod(&json!({ "runtimeClassName": "vm", "nodeSelector": { "a": "b" } }));
    let failure = cluster.load(asks.clone()).unwrap_err();
    assert_eq!(failure.code, 403);
    assert_eq!(
        failure.message,
        "pods \"p\" is forbidden: pod rejected: RuntimeClass \"vm\" not found"
    );
    cluster.load(class()).unwrap();
    let made = cluster.load(asks).unwrap();
    assert_eq!(made["spec"]["overhead"], json!({ "memory": "100Mi" }));
    assert_eq!(
        made["spec"]["nodeSelector"],
        json!({ "a": "b", "vm": "yes" })
    );
    assert_eq!(made["spec"]["tolerations"][0]["key"], "vm");
}

#[test]
fn a_pod_may_not_contradict_its_runtime_class() {
    let mut cluster = Cluster::new(100);
    cluster.load(class()).unwrap();
    for spec in [
        json!({ "runtimeClassName": "vm", "nodeSelector": { "vm": "no" } }),
        json!({ "runtimeClassName": "vm", "overhead": { "memory": "1Mi" } }),
    ] {
        assert_eq!(cluster.load(pod(&spec)).unwrap_err().code, 403);
    }
}

#[test]
fn the_handler_of_a_runtime_class_stays() {
    let mut cluster = Cluster::new(100);
    cluster.load(class()).unwrap();
    let target = at(&cluster, "runtimeclasses", "", "vm");
    let patch = json!({ "handler": "other" });
    let failure = cluster
        .patch(&target, crate::patch::Patch::Merge, patch, &query(""))
        .unwrap_err();
    assert_eq!(
        failure.message,
        "RuntimeClass.node.k8s.io \"vm\" is invalid: handler: Invalid value: \"other\": field is \
         immutable"
    );
}

fn policy(validation: &Value) -> [Value; 2] {
    let api = "admissionregistration.k8s.io/v1";
    [
        json!({
            "apiVersion": api, "kind": "ValidatingAdmissionPolicy", "metadata": { "name": "vm" },
            "spec": {
                "matchConstraints": { "resourceRules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"],
                    "operations": ["CREATE"] }] },
                "variables": [{ "name": "privileged", "expression":
                    "object.spec.containers.filter(c, has(c.securityContext) && \
                     has(c.securityContext.privileged) && c.securityContext.privileged)" }],
                "matchConditions": [{ "name": "vm",
                    "expression": "has(object.spec.runtimeClassName)" }],
                "validations": [validation],
            },
        }),
        json!({
            "apiVersion": api, "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": { "name": "everywhere" },
            "spec": { "policyName": "vm", "validationActions": ["Deny"],
                "matchResources": { "namespaceSelector": { "matchExpressions": [{
                    "key": "kubernetes.io/metadata.name", "operator": "NotIn",
                    "values": ["kube-system"] }] } } },
        }),
    ]
}

#[test]
fn a_policy_refuses_what_it_says() {
    let mut cluster = Cluster::new(100);
    cluster.load(class()).unwrap();
    let validation = json!({
        "expression": "size(variables.privileged) == 0",
        "messageExpression": "'not privileged: ' + variables.privileged[0].name",
    });
    for object in policy(&validation) {
        cluster.load(object).unwrap();
    }
    let privileged = json!([{ "name": "c", "securityContext": { "privileged": true } }]);
    let wrong = pod(&json!({ "runtimeClassName": "vm", "containers": privileged }));
    let failure = cluster.load(wrong.clone()).unwrap_err();
    assert_eq!((failure.code, failure.reason), (422, "Invalid"));
    assert_eq!(
        failure.message,
        "pods \"p\" is forbidden: ValidatingAdmissionPolicy 'vm' with binding 'everywhere' denied \
         request: not privileged: c"
    );
    let mut elsewhere = wrong;
    elsewhere["metadata"]["namespace"] = json!("kube-system");
    cluster.load(elsewhere).unwrap();
    cluster
        .load(pod(&json!({ "containers": privileged })))
        .unwrap();
}

#[test]
fn a_policy_may_be_about_who_asks() {
    let mut cluster = Cluster::new(100);
    cluster.load(class()).unwrap();
    let expression = "request.userInfo.username != 'robot' && request.userInfo.groups.size() > 0";
    for object in policy(&json!({ "expression": expression })) {
        cluster.load(object).unwrap();
    }
    let own = pod(&json!({ "runtimeClassName": "vm", "containers": [] }));
    cluster.load(own.clone()).unwrap();
    let target = at(&cluster, "pods", "default", "");
    let mut robots = query("");
    robots.user = ("robot".into(), vec!["system:authenticated".into()]);
    let mut second = own;
    second["metadata"]["name"] = json!("q");
    assert_eq!(
        cluster
            .create(&target, second.clone(), &robots)
            .unwrap_err()
            .code,
        422
    );
    robots.user.0 = "somebody".into();
    cluster.create(&target, second, &robots).unwrap();
}

#[test]
fn a_policy_that_fails_refuses_unless_it_may_be_ignored() {
    for (failure_policy, refused) in [("Fail", true), ("Ignore", false)] {
        let mut cluster = Cluster::new(100);
        cluster.load(class()).unwrap();
        let [mut policy, binding] = policy(&json!({ "expression": "object.spec.missing == 1" }));
        policy["spec"]["failurePolicy"] = json!(failure_policy);
        cluster.load(policy).unwrap();
        cluster.load(binding).unwrap();
        let made = cluster.load(pod(&json!({ "runtimeClassName": "vm", "containers": [] })));
        assert_eq!(made.is_err(), refused, "{made:?}");
    }
}

#[test]
fn a_budget_holds_an_eviction_back() {
    let mut cluster = Cluster::new(100);
    let mut labelled = pod(&json!({}));
    labelled["metadata"]["labels"] = json!({ "app": "x" });
    cluster.load(labelled).unwrap();
    cluster
        .load(json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "b" },
            "spec": { "selector": { "matchLabels": { "app": "x" } } },
        }))
        .unwrap();
    let target = at(&cluster, "pods", "default", "p");
    let failure = cluster.evict(&target, &json!({}), &query("")).unwrap_err();
    assert_eq!(failure.code, 429);
    let mut budget = at(&cluster, "poddisruptionbudgets", "default", "b");
    budget.subresource = "status".into();
    let patch = json!({ "status": { "disruptionsAllowed": 1 } });
    cluster
        .patch(&budget, crate::patch::Patch::Merge, patch, &query(""))
        .unwrap();
    cluster.evict(&target, &json!({}), &query("")).unwrap();
    assert_eq!(cluster.get(&target).unwrap_err().code, 404);
}

#[test]
fn a_policy_that_cannot_run_is_refused() {
    let mut cluster = Cluster::new(100);
    for (expression, error) in [
        ("object.spec ==", "compilation failed"),
        ("pod.spec == 1", "undeclared reference to 'pod'"),
    ] {
        let [policy, _] = policy(&json!({ "expression": expression }));
        let failure = cluster.load(policy).unwrap_err();
        assert_eq!(
            failure.details["causes"][0]["field"],
            "spec.validations[0].expression"
        );
        assert!(failure.message.contains(error), "{failure}");
    }
}

#[test]
fn a_workload_selects_its_own_pods_and_always_will() {
    let mut cluster = Cluster::new(100);
    let set = |selector: Value, label: &str| {
        json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "d" },
            "spec": { "selector": selector,
                      "template": { "metadata": { "labels": { "app": label } } } },
        })
    };
    let selects = json!({ "matchLabels": { "app": "x" } });
    let failure = cluster.load(set(Value::Null, "x")).unwrap_err();
    assert!(
        failure.message.contains("spec.selector: Required value"),
        "{failure}"
    );
    let failure = cluster.load(set(selects.clone(), "y")).unwrap_err();
    assert!(
        failure
            .message
            .contains("`selector` does not match template `labels`"),
        "{failure}"
    );
    cluster.load(set(selects, "x")).unwrap();
    let target = at(&cluster, "daemonsets", "default", "d");
    let patch = json!({ "spec": { "selector": { "matchLabels": { "app": "z" } } } });
    let failure = cluster
        .patch(&target, crate::patch::Patch::Merge, patch, &query(""))
        .unwrap_err();
    assert!(
        failure.message.contains("spec.selector: Invalid value"),
        "{failure}"
    );
    assert!(failure.message.contains("field is immutable"), "{failure}");
}

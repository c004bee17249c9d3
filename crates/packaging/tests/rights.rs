//! Pods have no more of their node and their network than they need.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod stage;

use k8s_openapi::serde_json::Value;

use stage::kustomize;

/// Name and pod of everything that runs pods.
fn pods(objects: &[Value]) -> Vec<(String, Value)> {
    let running = objects.iter().filter(|object| {
        let kind = object["kind"].as_str().unwrap();
        kind == "Deployment" || kind == "DaemonSet"
    });
    running
        .map(|object| {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            (name, object["spec"]["template"].clone())
        })
        .collect()
}

fn paths(pod: &Value) -> Vec<String> {
    let volumes = pod["spec"]["volumes"].as_array().cloned();
    let volumes = volumes.unwrap_or_default();
    let paths = volumes
        .iter()
        .filter_map(|v| v["hostPath"]["path"].as_str());
    paths.map(str::to_owned).collect()
}

#[test]
fn each_pod_has_of_its_node_what_it_needs() {
    let objects = kustomize("overlays/openshift");
    let pods = pods(&objects);
    assert_eq!(pods.len(), 3);
    for (name, pod) in &pods {
        let spec = &pod["spec"];
        assert!(spec["hostNetwork"].is_null() && spec["hostIPC"].is_null());
        for container in spec["containers"].as_array().unwrap() {
            let security = &container["securityContext"];
            assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
            let limit = &container["resources"]["limits"]["memory"];
            assert!(limit.is_string(), "{name} has no limit");
            if name == "bulkhead-node-agent" {
                continue;
            }
            assert!(security["privileged"].is_null(), "{name}");
            assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(security["capabilities"]["drop"][0], "ALL", "{name}");
            assert!(security["capabilities"]["add"].is_null(), "{name}");
            let either = [security, &spec["securityContext"]];
            let mut profiles = either.iter().map(|of| &of["seccompProfile"]["type"]);
            assert!(profiles.any(|kind| kind == "RuntimeDefault"), "{name}");
        }
        match name.as_str() {
            "bulkhead-operator" => {
                assert!(paths(pod).is_empty() && spec["hostPID"].is_null());
                assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
            }
            "bulkhead-monitor" => {
                assert_eq!(paths(pod), ["/run/bulkhead"]);
                assert_eq!(spec["containers"][0]["volumeMounts"][0]["readOnly"], true);
                assert_eq!(spec["automountServiceAccountToken"], false);
            }
            _ => assert_eq!(paths(pod), ["/"]),
        }
    }
}

#[test]
fn constraints_allow_what_their_pod_asks_for_and_no_more() {
    let objects = kustomize("overlays/openshift");
    for (name, pod) in pods(&objects) {
        let mut all = objects.iter();
        let scc = all.find(|object| {
            object["kind"] == "SecurityContextConstraints" && object["metadata"]["name"] == *name
        });
        let Some(scc) = scc else {
            assert_eq!(name, "bulkhead-operator", "of the restricted ones");
            continue;
        };
        let asks = &pod["spec"];
        let security = &asks["containers"][0]["securityContext"];
        let same = |allowed: &str, asked: &Value| {
            assert_eq!(scc[allowed], *asked == true, "{name}: {allowed}");
        };
        same("allowHostPID", &asks["hostPID"]);
        same("allowHostNetwork", &asks["hostNetwork"]);
        same("allowHostIPC", &asks["hostIPC"]);
        same("allowPrivilegedContainer", &security["privileged"]);
        assert_eq!(scc["allowHostDirVolumePlugin"], !paths(&pod).is_empty());
        let account = asks["serviceAccountName"].as_str().unwrap();
        let user = format!("system:serviceaccount:bulkhead-system:{account}");
        assert_eq!(scc["users"].as_array().unwrap(), &[Value::from(user)]);
        assert_eq!(scc["groups"].as_array().unwrap().len(), 0);
    }
}

#[test]
fn the_network_is_closed_but_for_what_each_pod_needs() {
    let objects = kustomize("overlays/kubernetes");
    let policies: Vec<_> = objects
        .iter()
        .filter(|object| object["kind"] == "NetworkPolicy")
        .collect();
    let both = |policy: &Value| policy["spec"]["policyTypes"].as_array().unwrap().len() == 2;
    assert!(policies.iter().all(|policy| both(policy)));
    let closed = |policy: &&&Value| {
        let spec = &policy["spec"];
        let empty = spec["podSelector"].as_object().unwrap().is_empty();
        empty && spec["ingress"].is_null() && spec["egress"].is_null()
    };
    assert_eq!(policies.iter().filter(closed).count(), 1);
    for (name, pod) in pods(&objects) {
        let labels = &pod["metadata"]["labels"];
        let own: Vec<_> = policies
            .iter()
            .filter(|policy| &policy["spec"]["podSelector"]["matchLabels"] == labels)
            .collect();
        assert_eq!(own.len(), 1, "{name}");
        let spec = &own[0]["spec"];
        let port = &pod["spec"]["containers"][0]["ports"][0]["containerPort"];
        // Who listens is asked by Prometheus, and by nobody else.
        assert_eq!(port, &spec["ingress"][0]["ports"][0]["port"], "{name}");
        let calls = spec["egress"].is_array();
        assert_eq!(calls, name != "bulkhead-monitor", "{name}");
    }
    let namespaces = objects
        .iter()
        .filter(|object| object["kind"] == "Namespace");
    let labels: Vec<_> = namespaces
        .map(|object| &object["metadata"]["labels"])
        .collect();
    assert_eq!(
        labels[0]["pod-security.kubernetes.io/enforce"],
        "privileged"
    );
}

/// The tests of the operator and of the node agent run each under its roles and
/// fail when a right was not used. A role elsewhere would escape them.
#[test]
fn there_are_no_roles_but_those_that_are_tried() {
    let objects = kustomize("overlays/openshift");
    let mut roles = objects
        .iter()
        .filter(|object| object["kind"].as_str().unwrap().ends_with("Role"))
        .map(|object| object["metadata"]["name"].as_str().unwrap())
        .collect::<Vec<_>>();
    roles.sort_unstable();
    let tried = [
        "bulkhead-node-agent",
        "bulkhead-operator",
        "bulkhead-operator",
        "bulkhead-operator-events",
        "bulkhead-operator-machine-configs",
    ];
    assert_eq!(roles, tried);
    let files = ["operator", "node-agent"].map(|dir| {
        let path = stage::deploy().join(dir).join("rbac.yaml");
        std::fs::read_to_string(path).unwrap()
    });
    let text = files.concat();
    let count =
        text.matches("\nkind: Role\n").count() + text.matches("\nkind: ClusterRole\n").count();
    assert_eq!(count, tried.len(), "a role in another file");
}

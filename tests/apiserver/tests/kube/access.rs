//! Who may do what, and who did.

use super::*;

#[tokio::test]
async fn faults_are_answered_and_requests_recorded() {
    let (server, client) = server().await;
    let nodes: Api<Node> = Api::all(client);
    server
        .faults()
        .add(Fault::status(500).on("get", "nodes").times(1));
    let (code, reason, _) = refusal(nodes.get("a").await);
    assert_eq!((code, &*reason), (500, "InternalError"));
    assert_eq!(refusal(nodes.get("a").await).0, 404);
    nodes.list(&ListParams::default()).await.unwrap();
    let seen: Vec<_> = server
        .requests()
        .into_iter()
        .map(|request| (request.verb, request.resource, request.name))
        .collect();
    let wanted = [
        ("get", "nodes", "a"),
        ("get", "nodes", "a"),
        ("list", "nodes", ""),
    ];
    assert_eq!(
        seen,
        wanted.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()))
    );
}

#[tokio::test]
async fn roles_are_enforced() {
    let (server, admin) = server().await;
    let rbac = "rbac.authorization.k8s.io/v1";
    server
        .load(json!({ "items": [
            { "apiVersion": rbac, "kind": "ClusterRole", "metadata": { "name": "reader" },
              "rules": [{ "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list"] }] },
            { "apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": { "name": "reader" },
              "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                           "name": "reader" },
              "subjects": [{ "kind": "ServiceAccount", "name": "op", "namespace": "default" }] },
        ]}))
        .unwrap();
    server.enforce_rbac(true);
    Api::<Node>::all(admin)
        .create(&PostParams::default(), &node("a"))
        .await
        .unwrap();
    let operator = client(&server, Some("system:serviceaccount:default:op"));
    let nodes: Api<Node> = Api::all(operator);
    nodes.get("a").await.unwrap();
    let (code, reason, message) = refusal(nodes.delete("a", &DeleteParams::default()).await);
    assert_eq!((code, &*reason), (403, "Forbidden"));
    assert_eq!(
        message,
        "nodes \"a\" is forbidden: User \"system:serviceaccount:default:op\" cannot delete \
         resource \"nodes\" in API group \"\" at the cluster scope"
    );
    let last = server.requests().pop().unwrap();
    assert_eq!(
        (&*last.verb, &*last.user),
        ("delete", "system:serviceaccount:default:op")
    );
}

#[tokio::test]
async fn nobody_gives_more_than_they_have() {
    let (server, _) = server().await;
    let api = "rbac.authorization.k8s.io/v1";
    let rule = |resources: &[&str], verbs: &[&str]| {
        json!({ "apiGroups": ["", "rbac.authorization.k8s.io"], "resources": resources,
                "verbs": verbs })
    };
    server
        .load(json!({ "items": [
            { "apiVersion": api, "kind": "ClusterRole", "metadata": { "name": "r" },
              "rules": [rule(&["nodes"], &["get"]),
                        rule(&["clusterroles"], &["patch", "create"]),
                        rule(&["configmaps"], &["patch"])] },
            { "apiVersion": api, "kind": "ClusterRoleBinding", "metadata": { "name": "r" },
              "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                           "name": "r" },
              "subjects": [{ "kind": "User", "name": "bob" }] },
        ]}))
        .unwrap();
    server.enforce_rbac(true);
    let bob = client(&server, Some("bob"));
    let roles: Api<k8s_openapi::api::rbac::v1::ClusterRole> = Api::all(bob.clone());
    let params = PatchParams::apply("bob");
    let role = |verbs: &[&str]| {
        json!({ "apiVersion": api, "kind": "ClusterRole", "metadata": { "name": "new" },
                "rules": [{ "apiGroups": [""], "resources": ["nodes"], "verbs": verbs }] })
    };
    roles
        .patch("new", &params, &Patch::Apply(role(&["get"])))
        .await
        .unwrap();
    let more = roles
        .patch("new", &params, &Patch::Apply(role(&["get", "delete"])))
        .await;
    let (code, _, message) = refusal(more);
    assert_eq!(code, 403);
    assert!(
        message.contains("attempting to grant RBAC permissions not currently held"),
        "{message}"
    );
    // An apply that creates needs both verbs.
    let maps: Api<ConfigMap> = Api::namespaced(bob, "default");
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" } });
    let (code, _, message) = refusal(maps.patch("m", &params, &Patch::Apply(map)).await);
    assert_eq!(code, 403);
    assert!(
        message.contains("cannot create resource \"configmaps\""),
        "{message}"
    );
}

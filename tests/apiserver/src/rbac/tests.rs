use serde_json::json;

use super::*;

fn cluster() -> Cluster {
    let api = "rbac.authorization.k8s.io/v1";
    let mut cluster = Cluster::new(100);
    for object in [
        json!({ "kind": "Role", "metadata": { "name": "maps", "namespace": "default" }, "rules": [
            { "apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"],
              "resourceNames": ["mine"] }] }),
        json!({ "kind": "RoleBinding", "metadata": { "name": "maps", "namespace": "default" },
                "roleRef": { "kind": "Role", "name": "maps" },
                "subjects": [{ "kind": "User", "name": "bob" }] }),
        json!({ "kind": "ClusterRole", "metadata": { "name": "nodes" }, "rules": [
            { "apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"] },
            { "apiGroups": ["sea.example"], "resources": ["*"], "verbs": ["get"] }] }),
        json!({ "kind": "ClusterRoleBinding", "metadata": { "name": "nodes" },
                "roleRef": { "kind": "ClusterRole", "name": "nodes" },
                "subjects": [{ "kind": "Group", "name": "system:serviceaccounts:ops" }] }),
    ] {
        let mut object = object;
        object["apiVersion"] = json!(api);
        cluster.load(object).unwrap();
    }
    cluster
}

fn may(
    cluster: &Cluster,
    user: &str,
    verb: &str,
    group: &str,
    resource: &str,
    at: (&str, &str),
) -> bool {
    let asked = Asked {
        verb,
        group,
        resource: resource.into(),
        namespace: at.0,
        name: at.1,
    };
    cluster.allows(&User::named(Some(user), Vec::new()), &asked)
}

#[test]
fn a_role_counts_in_its_namespace_and_for_its_names() {
    let cluster = cluster();
    let may = |at| may(&cluster, "bob", "update", "", "configmaps", at);
    assert!(may(("default", "mine")));
    assert!(!may(("default", "other")));
    assert!(!may(("default", "")));
    assert!(!may(("kube-system", "mine")));
}

#[test]
fn a_service_account_is_in_the_group_of_its_namespace() {
    let cluster = cluster();
    let account = "system:serviceaccount:ops:a";
    assert!(may(
        &cluster,
        account,
        "patch",
        "",
        "nodes/status",
        ("", "n")
    ));
    assert!(!may(&cluster, account, "patch", "", "nodes", ("", "n")));
    assert!(may(
        &cluster,
        account,
        "get",
        "sea.example",
        "boats",
        ("x", "n")
    ));
    let other = "system:serviceaccount:other:a";
    assert!(!may(
        &cluster,
        other,
        "patch",
        "",
        "nodes/status",
        ("", "n")
    ));
}

#[test]
fn one_without_a_name_is_an_administrator() {
    let asked = Asked {
        verb: "delete",
        group: "",
        resource: "nodes".into(),
        namespace: "",
        name: "",
    };
    assert!(cluster().allows(&User::named(None, Vec::new()), &asked));
}

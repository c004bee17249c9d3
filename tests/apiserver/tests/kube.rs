//! The server as kube-rs sees it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use bulkhead_apiserver::{Fault, Options, Server};
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
    WatchEvent, WatchParams,
};
use kube::core::GroupVersionKind;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Client, Config, Error};
use serde_json::{Value, json};

async fn server() -> (Server, Client) {
    let server = Server::start(Options::default()).await.unwrap();
    let client = client(&server, None);
    (server, client)
}

fn client(server: &Server, user: Option<&str>) -> Client {
    let mut config = Config::new(server.url().parse().unwrap());
    config.auth_info.impersonate = user.map(str::to_owned);
    Client::try_from(config).unwrap()
}

fn node(name: &str) -> Node {
    serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap()
}

fn definition() -> Value {
    let rule = |rule: &str, message: &str| json!({ "rule": rule, "message": message });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "boats.sea.example" },
        "spec": {
            "group": "sea.example", "scope": "Namespaced",
            "names": { "plural": "boats", "kind": "Boat" },
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": { "type": "object", "required": ["spec"],
                    "properties": {
                        "spec": { "type": "object",
                            "x-kubernetes-validations": [
                                rule("self.least <= self.most", "least is at most most"),
                                rule("self.hull == oldSelf.hull", "a hull stays"),
                            ],
                            "properties": {
                                "least": { "type": "integer", "default": 1 },
                                "most": { "type": "integer", "maximum": 100 },
                                "hull": { "type": "string", "default": "oak",
                                          "enum": ["oak", "steel"] },
                                "rooms": { "type": "array", "x-kubernetes-list-type": "map",
                                    "x-kubernetes-list-map-keys": ["name"],
                                    "items": { "type": "object", "required": ["name"],
                                        "properties": {
                                            "name": { "type": "string" },
                                            "beds": { "type": "integer" },
                                        }}},
                            }},
                        "status": { "type": "object", "properties": {
                            "speed": { "type": "integer" } }},
                    }}},
            }],
        },
    })
}

fn boats(client: Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("sea.example", "v1", "Boat");
    Api::namespaced_with(client, "default", &ApiResource::from_gvk(&kind))
}

fn boat(spec: &Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "sea.example/v1", "kind": "Boat", "metadata": { "name": "a" }, "spec": spec,
    }))
    .unwrap()
}

/// What the server answered.
fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> (u16, String, String) {
    match result {
        Err(Error::Api(status)) => (status.code, status.reason, status.message),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_node_is_made_read_changed_and_deleted() {
    let (_server, client) = server().await;
    let nodes: Api<Node> = Api::all(client);
    let made = nodes
        .create(&PostParams::default(), &node("a"))
        .await
        .unwrap();
    assert!(made.metadata.uid.is_some() && made.metadata.creation_timestamp.is_some());
    let (code, reason, message) = refusal(nodes.create(&PostParams::default(), &node("a")).await);
    assert_eq!((code, &*reason), (409, "AlreadyExists"), "{message}");

    let mut first = nodes.get("a").await.unwrap();
    let mut second = first.clone();
    first.metadata.labels = Some([("x".to_owned(), "1".to_owned())].into());
    nodes
        .replace("a", &PostParams::default(), &first)
        .await
        .unwrap();
    second.metadata.labels = Some([("x".to_owned(), "2".to_owned())].into());
    let (code, reason, _) = refusal(nodes.replace("a", &PostParams::default(), &second).await);
    assert_eq!((code, &*reason), (409, "Conflict"));

    let status = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
                         "spec": { "unschedulable": true } });
    let patched = nodes
        .patch_status("a", &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    assert_eq!(patched.status.unwrap().conditions.unwrap().len(), 1);
    assert_eq!(patched.spec.unwrap_or_default().unschedulable, None);

    let found = |labels: &str| {
        let params = ListParams::default().labels(labels);
        let nodes = nodes.clone();
        async move { nodes.list(&params).await.unwrap().items.len() }
    };
    assert_eq!(found("x in (1, 2)").await, 1);
    assert_eq!(found("x!=1").await, 0);
    nodes.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(nodes.get_opt("a").await.unwrap(), None);
}

#[tokio::test]
async fn a_definition_is_served_and_its_schema_holds() {
    let (server, client) = server().await;
    server.load(definition()).unwrap();
    let boats = boats(client);
    let create = PostParams::default();
    let made = boats
        .create(&create, &boat(&json!({ "most": 2, "sails": 3 })))
        .await
        .unwrap();
    assert_eq!(
        made.data["spec"],
        json!({ "least": 1, "most": 2, "hull": "oak" })
    );
    assert_eq!(made.metadata.generation, Some(1));

    let change = |spec: Value| {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let boats = boats.clone();
        async move { boats.patch("a", &PatchParams::default(), &patch).await }
    };
    for (spec, wrong) in [
        (
            json!({ "least": 3 }),
            "spec: Invalid value: \"object\": least is at most most",
        ),
        (
            json!({ "hull": "steel" }),
            "spec: Invalid value: \"object\": a hull stays",
        ),
        (
            json!({ "most": 101 }),
            "spec.most in body should be less than or equal to 100",
        ),
        (
            json!({ "hull": "paper" }),
            "supported values: \"oak\", \"steel\"",
        ),
        (
            json!({ "most": "x" }),
            "spec.most in body must be of type integer: \"string\"",
        ),
    ] {
        let (code, reason, message) = refusal(change(spec).await);
        assert_eq!((code, &*reason), (422, "Invalid"));
        assert!(message.contains(wrong), "{message}");
        assert!(
            message.starts_with("Boat.sea.example \"a\" is invalid: "),
            "{message}"
        );
    }
    assert_eq!(
        change(json!({ "most": 9 }))
            .await
            .unwrap()
            .metadata
            .generation,
        Some(2)
    );
}

#[tokio::test]
async fn the_status_is_written_apart() {
    let (server, client) = server().await;
    server.load(definition()).unwrap();
    let boats = boats(client);
    boats
        .create(&PostParams::default(), &boat(&json!({ "most": 2 })))
        .await
        .unwrap();
    let both = Patch::Merge(json!({ "spec": { "most": 5 }, "status": { "speed": 7 } }));
    let params = PatchParams::default();
    let after = boats.patch_status("a", &params, &both).await.unwrap();
    assert_eq!(
        (&after.data["spec"]["most"], &after.data["status"]["speed"]),
        (&json!(2), &json!(7))
    );
    assert_eq!(after.metadata.generation, Some(1));
    let other = Patch::Merge(json!({ "spec": { "most": 6 }, "status": { "speed": 8 } }));
    let after = boats.patch("a", &params, &other).await.unwrap();
    assert_eq!(
        (&after.data["spec"]["most"], &after.data["status"]["speed"]),
        (&json!(6), &json!(7))
    );
    assert_eq!(after.metadata.generation, Some(2));
}

#[tokio::test]
async fn a_finalizer_holds_an_object() {
    let (_server, client) = server().await;
    let nodes: Api<Node> = Api::all(client);
    let mut held = node("a");
    held.metadata.finalizers = Some(vec!["sea.example/anchor".into()]);
    nodes.create(&PostParams::default(), &held).await.unwrap();
    let going = nodes.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(going.left().unwrap().metadata.deletion_timestamp.is_some());
    assert!(nodes.get("a").await.is_ok());
    let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    nodes
        .patch("a", &PatchParams::default(), &free)
        .await
        .unwrap();
    assert_eq!(nodes.get_opt("a").await.unwrap(), None);
}

#[tokio::test]
async fn appliers_keep_out_of_each_others_fields() {
    let (server, client) = server().await;
    server.load(definition()).unwrap();
    let boats = boats(client);
    let apply = |manager: &str, force: bool, spec: Value| {
        let mut params = PatchParams::apply(manager);
        params.force = force;
        let boats = boats.clone();
        async move { boats.patch("a", &params, &Patch::Apply(boat(&spec))).await }
    };
    let room = |name: &str, beds: i64| json!({ "name": name, "beds": beds });
    apply("one", false, json!({ "most": 2, "rooms": [room("x", 1)] }))
        .await
        .unwrap();
    apply("two", false, json!({ "rooms": [room("y", 2)] }))
        .await
        .unwrap();
    let (code, _, message) = refusal(apply("two", false, json!({ "most": 3 })).await);
    assert_eq!(code, 409);
    let wanted =
        "Apply failed with 1 conflict: conflict with \"one\" using sea.example/v1: .spec.most";
    assert_eq!(message, wanted);
    // Forced, it is two's; what two applies no more is gone, what one applies is not.
    let after = apply("two", true, json!({ "most": 3 })).await.unwrap();
    assert_eq!(after.data["spec"]["most"], 3);
    assert_eq!(after.data["spec"]["rooms"], json!([room("x", 1)]));
    // Once more changes nothing.
    let again = apply("two", true, json!({ "most": 3 })).await.unwrap();
    assert_eq!(
        again.metadata.resource_version,
        after.metadata.resource_version
    );
}

#[tokio::test]
async fn a_watch_tells_what_happens() {
    let (_server, client) = server().await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let map = |name: &str, colour: &str| -> ConfigMap {
        serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "colour": colour } }
        }))
        .unwrap()
    };
    let create = PostParams::default();
    maps.create(&create, &map("a", "red")).await.unwrap();
    let version = maps
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    let params = WatchParams::default().labels("colour=red");
    let mut events = maps.watch(&params, &version).await.unwrap().boxed();
    maps.create(&create, &map("b", "blue")).await.unwrap();
    maps.create(&create, &map("c", "red")).await.unwrap();
    let paint =
        |colour: &str| Patch::Merge(json!({ "metadata": { "labels": { "colour": colour } } }));
    maps.patch("b", &PatchParams::default(), &paint("red"))
        .await
        .unwrap();
    maps.patch("a", &PatchParams::default(), &paint("blue"))
        .await
        .unwrap();
    let mut told = Vec::new();
    while told.len() < 3 {
        let event = events.try_next().await.unwrap().unwrap();
        let (what, map) = match event {
            WatchEvent::Added(map) => ("added", map),
            WatchEvent::Modified(map) => ("modified", map),
            WatchEvent::Deleted(map) => ("deleted", map),
            other => panic!("{other:?}"),
        };
        told.push((what, map.metadata.name.unwrap()));
    }
    let wanted = [("added", "c"), ("added", "b"), ("deleted", "a")];
    assert_eq!(told, wanted.map(|(what, name)| (what, name.to_owned())));
}

/// Waits until the reflector holds exactly `names`.
async fn holds(
    store: &reflector::Store<Node>,
    changes: &mut tokio::sync::watch::Receiver<u64>,
    names: &[&str],
) {
    let all = async {
        loop {
            changes.borrow_and_update();
            let mut found: Vec<_> = store
                .state()
                .iter()
                .map(|node| node.metadata.name.clone().unwrap())
                .collect();
            found.sort();
            if found == names {
                return;
            }
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .expect("the reflector follows");
}

#[tokio::test]
async fn a_reflector_survives_lost_history_and_connections() {
    for strategy in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let (server, client) = server().await;
        let nodes: Api<Node> = Api::all(client);
        let create = PostParams::default();
        nodes.create(&create, &node("a")).await.unwrap();
        let (store, writer) = reflector::store();
        let (told, mut changes) = tokio::sync::watch::channel(0);
        let stream = reflector(writer, watcher(nodes.clone(), strategy)).default_backoff();
        let follow = tokio::spawn(stream.for_each(move |_| {
            told.send_modify(|count| *count += 1);
            std::future::ready(())
        }));
        holds(&store, &mut changes, &["a"]).await;
        nodes.create(&create, &node("b")).await.unwrap();
        holds(&store, &mut changes, &["a", "b"]).await;

        server.faults().drop_watches("nodes");
        nodes.create(&create, &node("c")).await.unwrap();
        holds(&store, &mut changes, &["a", "b", "c"]).await;

        nodes.delete("a", &DeleteParams::default()).await.unwrap();
        server.faults().forget_history();
        holds(&store, &mut changes, &["b", "c"]).await;

        server
            .faults()
            .add(Fault::status(500).on("list", "nodes").times(1));
        server.faults().forget_history();
        nodes.delete("b", &DeleteParams::default()).await.unwrap();
        holds(&store, &mut changes, &["c"]).await;
        follow.abort();
    }
}

#[tokio::test]
async fn faults_are_answered_and_requests_recorded() {
    let (server, client) = server().await;
    let nodes: Api<Node> = Api::all(client);
    server
        .faults()
        .add(Fault::status(403).on("get", "nodes").times(1));
    let (code, reason, _) = refusal(nodes.get("a").await);
    assert_eq!((code, &*reason), (403, "Forbidden"));
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
async fn a_long_list_comes_in_pages_of_one_moment() {
    let (server, client) = server().await;
    let nodes: Api<Node> = Api::all(client);
    let create = PostParams::default();
    for name in ["a", "b", "c"] {
        nodes.create(&create, &node(name)).await.unwrap();
    }
    let first = nodes.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(first.items.len(), 2);
    assert_eq!(first.metadata.remaining_item_count, Some(1));
    let token = first.metadata.continue_.unwrap();
    nodes.create(&create, &node("d")).await.unwrap();
    let rest = nodes
        .list(&ListParams::default().continue_token(&token))
        .await
        .unwrap();
    let names: Vec<_> = rest
        .items
        .iter()
        .map(|node| node.metadata.name.clone().unwrap())
        .collect();
    assert_eq!(names, ["c"]);
    server.faults().forget_history();
    let (code, reason, _) = refusal(
        nodes
            .list(&ListParams::default().continue_token(&token))
            .await,
    );
    assert_eq!((code, &*reason), (410, "Expired"));
}

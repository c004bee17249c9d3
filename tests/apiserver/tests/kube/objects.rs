//! Objects: made, read, changed, applied, deleted.

use super::*;

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

#[tokio::test]
async fn a_status_is_applied_apart_from_the_rest() {
    let (server, client) = server().await;
    server.load(definition()).unwrap();
    let boats = boats(client);
    let params = PatchParams::apply("operator").force();
    boats
        .patch("a", &params, &Patch::Apply(boat(&json!({ "most": 2 }))))
        .await
        .unwrap();
    let mut status = boat(&json!({ "most": 9 }));
    status.data["status"] = json!({ "speed": 3 });
    let after = boats
        .patch_status("a", &params, &Patch::Apply(&status))
        .await
        .unwrap();
    assert_eq!(after.data["spec"]["most"], 2);
    assert_eq!(after.data["status"]["speed"], 3);
    let managers: Vec<_> = after
        .metadata
        .managed_fields
        .unwrap()
        .into_iter()
        .map(|entry| (entry.manager.unwrap(), entry.subresource))
        .collect();
    let wanted = [
        ("operator".to_owned(), None),
        ("operator".to_owned(), Some("status".to_owned())),
    ];
    assert_eq!(managers, wanted);
    // Applying the rest once more leaves the status alone.
    let again = boats
        .patch("a", &params, &Patch::Apply(boat(&json!({ "most": 4 }))))
        .await
        .unwrap();
    assert_eq!(again.data["status"]["speed"], 3);
}

//! Watches, and what follows them.

use super::*;

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
        // It began once, after the break again, and after the losses at least once.
        let verbs = server.requests().into_iter().map(|request| request.verb);
        let begun = verbs.filter(|verb| ["list", "watch"].contains(&verb.as_str()));
        assert!(begun.count() >= 3);
    }
}

#[tokio::test]
async fn a_test_may_play_the_kubelet() {
    let (server, client) = server().await;
    let nodes: Api<Node> = Api::all(client.clone());
    nodes
        .create(&PostParams::default(), &node("a"))
        .await
        .unwrap();
    let version = nodes
        .get("a")
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    server.clear_requests();
    let ready = json!([{ "type": "Ready", "status": "True" }]);
    server
        .edit("", "nodes", ("", "a"), |node| {
            node["status"] = json!({ "conditions": ready })
        })
        .unwrap();
    assert_eq!(
        server.objects("", "nodes")[0]["status"]["conditions"],
        ready
    );
    assert_eq!(server.requests(), []);
    let mut events = nodes
        .watch(&WatchParams::default(), &version)
        .await
        .unwrap()
        .boxed();
    let event = events.try_next().await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Modified(_)), "{event:?}");
}

#[tokio::test]
async fn metadata_alone_is_watched() {
    let (_server, client) = server().await;
    let nodes: Api<Node> = Api::all(client.clone());
    nodes
        .create(&PostParams::default(), &node("a"))
        .await
        .unwrap();
    let metadata: Api<PartialObjectMeta<Node>> = Api::all(client);
    let mut seen = watcher(metadata, watcher::Config::default())
        .applied_objects()
        .boxed();
    let first = seen.try_next().await.unwrap().unwrap();
    assert_eq!(first.metadata.name.as_deref(), Some("a"));
    nodes
        .create(&PostParams::default(), &node("b"))
        .await
        .unwrap();
    let second = seen.try_next().await.unwrap().unwrap();
    assert_eq!(second.metadata.name.as_deref(), Some("b"));
}

#[derive(Debug, thiserror::Error)]
#[error("the node could not be labelled")]
struct Unlabelled(#[from] Error);

#[tokio::test]
async fn a_controller_does_its_work_in_spite_of_trouble() {
    let (server, client) = server().await;
    let nodes: Api<Node> = Api::all(client);
    for name in ["a", "b", "c"] {
        nodes
            .create(&PostParams::default(), &node(name))
            .await
            .unwrap();
    }
    server
        .faults()
        .add(Fault::status(500).on("patch", "nodes").times(2));
    server
        .faults()
        .add(Fault::new(Effect::Disconnect).on("list", "nodes").times(1));
    let label = |node: Arc<Node>, nodes: Arc<Api<Node>>| async move {
        let name = node.metadata.name.clone().unwrap_or_default();
        let applied = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "labels": { "seen": "yes" } },
        });
        let params = PatchParams::apply("controller");
        nodes.patch(&name, &params, &Patch::Apply(applied)).await?;
        Ok::<_, Unlabelled>(Action::await_change())
    };
    let again =
        |_: Arc<Node>, _: &Unlabelled, _: Arc<Api<Node>>| Action::requeue(Duration::from_millis(1));
    let work = Controller::new(nodes.clone(), watcher::Config::default())
        .run(label, again, Arc::new(nodes.clone()))
        .for_each(|_| std::future::ready(()));
    let work = tokio::spawn(work);
    // Watching only those seen, each comes once.
    let config = watcher::Config::default().labels("seen=yes");
    let seen = watcher(nodes, config).default_backoff().applied_objects();
    let three = seen.take(3).try_collect::<Vec<_>>();
    let three = tokio::time::timeout(Duration::from_secs(60), three).await;
    assert_eq!(three.expect("all are labelled").unwrap().len(), 3);
    work.abort();
}

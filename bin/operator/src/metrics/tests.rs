use super::*;

/// A KataConfig with twelve nodes that is Ready, its class, and somebody's.
fn snapshot() -> Snapshot {
    let mut config = KataConfig::default();
    let mut status = bulkhead_kataconfig::KataConfigStatus::default();
    status.kata_nodes.counts = [("installed".to_owned(), 12)].into();
    status
        .conditions
        .push(k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition {
            type_: "Ready".to_owned(),
            status: "True".to_owned(),
            last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                jiff::Timestamp::UNIX_EPOCH,
            ),
            message: String::new(),
            observed_generation: None,
            reason: "Test".to_owned(),
        });
    config.status = Some(status);
    let class = |managed, memory: &str| bulkhead_rollout::ClassView {
        managed,
        memory: memory.to_owned(),
        ..bulkhead_rollout::ClassView::default()
    };
    Snapshot {
        configs: BTreeMap::from([("example".to_owned(), config)]),
        classes: BTreeMap::from([
            ("kata".to_owned(), class(true, "350Mi")),
            ("gvisor".to_owned(), class(false, "1Gi")),
        ]),
        ..Snapshot::default()
    }
}

/// Everything alerts and dashboards say.
fn asked() -> String {
    let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let files = [
        "prometheus/rules.yaml",
        "grafana/fleet.json",
        "grafana/pod.json",
    ];
    let texts = files.map(|file| std::fs::read_to_string(deploy.join(file)).unwrap());
    texts.concat()
}

#[test]
fn alerts_and_dashboards_ask_for_what_is_told() {
    let metrics = Metrics::new();
    metrics.decided(Duration::from_millis(3), &snapshot());
    metrics.wrote("status", true);
    metrics.leads(true);
    let told = metrics.metrics().unwrap();
    let asked = asked();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = asked.split(|c| !word(c));
    let names: Vec<_> = names
        .filter(|name| name.starts_with("bulkhead_operator_"))
        .collect();
    assert!(names.len() > 10);
    for name in names {
        let found = told.lines().any(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        assert!(found, "`{name}` is asked for and not told: {told}");
    }
}

#[test]
fn states_are_those_of_the_status() {
    use kube::CustomResourceExt;
    let schema = serde_json::to_value(KataConfig::crd()).unwrap();
    let states = schema
        .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/status/properties")
        .unwrap()
        .pointer("/kataNodes/properties")
        .unwrap()
        .as_object()
        .unwrap();
    let lists = states
        .iter()
        .filter(|(_, schema)| schema["type"] == "array");
    let lists: Vec<_> = lists.map(|(name, _)| name.as_str()).collect();
    let mut told = STATES.to_vec();
    told.sort_unstable();
    assert_eq!(told, lists);
    let asked = asked();
    let selectors = asked.split("bulkhead_operator_nodes{").skip(1);
    let mut count = 0;
    for selector in selectors.filter_map(|part| part.split('}').next()) {
        let Some((_, states)) = selector.split_once("state=") else {
            continue;
        };
        // In JSON the quotes are escaped.
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '|';
        for state in states.replace(|c| !plain(c), "").split('|') {
            assert!(STATES.contains(&state), "no state `{state}`");
            count += 1;
        }
    }
    assert!(count > 6);
}

/// A node that was told to have version 2 with the handler `kata`.
fn kata_node(name: &str, version: Option<&str>, handlers: &[&str]) -> (String, KataNode) {
    let mut node = KataNode::new(
        name,
        bulkhead_kataconfig::KataNodeSpec {
            kata_config: "example".to_owned(),
            action: Action::Install,
            version: Some("2".to_owned()),
            handlers: vec![bulkhead_kataconfig::HandlerSpec {
                name: "kata".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        },
    );
    node.status = Some(bulkhead_kataconfig::KataNodeStatus {
        version: version.map(str::to_owned),
        handlers: handlers.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    });
    (name.to_owned(), node)
}

#[test]
fn nodes_behind_what_is_wanted_are_counted() {
    let metrics = Metrics::new();
    let mut strange = kata_node("f", Some("1"), &[]);
    strange.1.spec.kata_config = "nobody's\"} 1".to_owned();
    let nodes = BTreeMap::from([
        kata_node("a", Some("2"), &["kata"]),
        kata_node("b", Some("1"), &["kata"]),
        kata_node("c", Some("2"), &["other"]),
        kata_node("d", Some("2"), &[]),
        kata_node("e", None, &[]),
        strange,
    ]);
    let snapshot = Snapshot {
        kata_nodes: nodes,
        ..snapshot()
    };
    metrics.decided(Duration::from_millis(3), &snapshot);
    let text = metrics.metrics().unwrap();
    let outdated = r#"bulkhead_operator_nodes_outdated{kataconfig="example"} 1"#;
    assert!(text.contains(outdated), "{text}");
    let without = r#"bulkhead_operator_nodes_without_handler{kataconfig="example"} 2"#;
    assert!(text.contains(without), "{text}");
    assert!(!text.contains("nobody"), "{text}");
}

#[test]
fn what_is_gone_is_not_counted_any_more() {
    let metrics = Metrics::new();
    let snapshot = snapshot();
    metrics.decided(Duration::from_millis(3), &snapshot);
    metrics.wrote("status", true);
    let text = metrics.metrics().unwrap();
    let nodes = r#"bulkhead_operator_nodes{kataconfig="example",state="installed"} 12"#;
    assert!(text.contains(nodes), "{text}");
    let writes = r#"bulkhead_operator_writes_total{kind="status",result="done"} 1"#;
    assert!(text.contains(writes), "{text}");
    let declared = r#"bulkhead_operator_overhead_bytes{runtimeclass="kata"} 367001600"#;
    assert!(text.contains(declared), "{text}");
    assert!(!text.contains("gvisor"), "{text}");
    let none = r#"bulkhead_operator_nodes{kataconfig="example",state="orphaned"} 0"#;
    assert!(text.contains(none), "{text}");
    metrics.decided(Duration::from_millis(3), &Snapshot::default());
    assert!(!metrics.metrics().unwrap().contains("example"));
    metrics.decided(Duration::from_millis(3), &snapshot);
    metrics.leads(false);
    assert!(!metrics.metrics().unwrap().contains("example"));
}

//! Whatever a cluster's objects hold: a decision is made, it is bounded, and
//! it is about what is there.

use std::collections::BTreeMap;

use bulkhead_kataconfig::*;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta, OwnerReference, Time,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use crate::{Change, NodeView, PodView, Snapshot, plan};

/// What etcd takes of one object is 1.5 MiB; the fields of its writer count too.
const STATUS_LIMIT: usize = 512 << 10;
/// Longest message of a condition, as the API has it.
const MESSAGE_LIMIT: usize = 32768;

/// A few names, so that objects meet; and any text.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-c]",
        1 => "\\PC{0,40}",
        1 => Just("kata".to_owned()),
        1 => Just("x".repeat(253)),
    ]
}

fn label() -> impl Strategy<Value = (String, String)> {
    let key = prop_oneof![
        4 => Just(WORKER_LABEL.to_owned()),
        1 => Just(MEMBER_LABEL.to_owned()),
        1 => Just(FEATURE_LABEL.to_owned()),
        1 => name().prop_map(|name| runtime_label(&name)),
        1 => "\\PC{0,20}",
    ];
    (key, prop_oneof!["true", "", "\\PC{0,20}"])
}

/// Before all time, after it, and about now.
fn time() -> impl Strategy<Value = Timestamp> {
    let now = 1_800_000_000;
    prop_oneof![
        Just(Timestamp::MIN),
        Just(Timestamp::MAX),
        (now - 4000..now + 4000i64).prop_map(|at| Timestamp::from_second(at).unwrap()),
    ]
}

fn node() -> impl Strategy<Value = NodeView> {
    (
        (
            name(),
            vec(label(), 0..5),
            any::<bool>(),
            option::of(time()),
        ),
        (any::<bool>(), name(), option::of(vec(name(), 0..3))),
        option::of(time()),
    )
        .prop_map(
            |((uid, labels, ready, ready_changed), told, withdrawn_since)| NodeView {
                uid,
                labels: labels.into_iter().collect(),
                ready,
                ready_changed,
                startup_taint: told.0,
                unschedulable: told.0,
                cordoned: ready,
                machine_id: told.1,
                handlers: told.2,
                withdrawn_since,
                machine: None,
            },
        )
}

fn phase() -> impl Strategy<Value = NodePhase> {
    prop_oneof![
        Just(NodePhase::Idle),
        Just(NodePhase::Installing),
        Just(NodePhase::Ready),
        Just(NodePhase::Uninstalling),
        Just(NodePhase::Removed),
        Just(NodePhase::Failed),
    ]
}

fn handlers() -> impl Strategy<Value = Vec<HandlerSpec>> {
    vec(name(), 0..3).prop_map(|names| {
        let handler = |name| HandlerSpec {
            name,
            ..HandlerSpec::default()
        };
        names.into_iter().map(handler).collect()
    })
}

fn told() -> impl Strategy<Value = KataNodeStatus> {
    (
        (phase(), option::of(name()), vec(name(), 0..3), name()),
        (
            option::of(0..3i64),
            option::of(time()),
            option::of("\\PC{0,1100}"),
        ),
        any::<bool>(),
    )
        .prop_map(
            |((phase, version, handlers, machine_id), told, passed)| KataNodeStatus {
                phase,
                version,
                handlers,
                machine_id,
                observed_generation: told.0,
                since: told.1.map(Time),
                last_error: told.2,
                preflight: vec![Preflight {
                    check: "disk".into(),
                    passed,
                    message: None,
                }],
                ..KataNodeStatus::default()
            },
        )
}

fn kata_node() -> impl Strategy<Value = KataNode> {
    let action = prop_oneof![
        Just(Action::None),
        Just(Action::Install),
        Just(Action::Uninstall)
    ];
    (
        (name(), action, option::of(name()), handlers(), name()),
        (any::<u32>(), option::of(time()), any::<bool>(), name()),
        (
            option::of(told()),
            option::of("\\PC{0,30}"),
            option::of(0..3i64),
        ),
    )
        .prop_map(|(order, tried, (status, withdrawn, generation))| KataNode {
            metadata: ObjectMeta {
                generation,
                annotations: withdrawn
                    .map(|at| BTreeMap::from([(WITHDRAWN_ANNOTATION.to_owned(), at)])),
                owner_references: Some(vec![OwnerReference {
                    kind: "Node".into(),
                    uid: tried.3,
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            spec: KataNodeSpec {
                kata_config: order.0,
                action: order.1,
                version: order.2,
                handlers: order.3,
                machine_id: order.4,
                attempt: tried.0,
                ordered_at: tried.1.map(Time),
                force: tried.2,
                ..KataNodeSpec::default()
            },
            status,
        })
}

fn selector() -> impl Strategy<Value = LabelSelector> {
    let expression = (name(), name(), option::of(vec(name(), 0..2)));
    let expression = expression.prop_map(|(key, operator, values)| LabelSelectorRequirement {
        key,
        operator,
        values,
    });
    (
        option::of(btree_map(name(), name(), 0..2)),
        option::of(vec(expression, 0..2)),
    )
        .prop_map(|(match_labels, match_expressions)| LabelSelector {
            match_labels,
            match_expressions,
        })
}

fn config() -> impl Strategy<Value = KataConfig> {
    let share = prop_oneof![
        any::<i32>().prop_map(IntOrString::Int),
        "\\PC{0,6}".prop_map(IntOrString::String),
        Just(IntOrString::String("100%".into())),
    ];
    let windows = vec(("\\PC{0,20}", "\\PC{0,6}"), 0..2);
    (
        (option::of(selector()), any::<bool>(), option::of(name())),
        (share, any::<u32>(), any::<u32>(), windows),
        (any::<bool>(), "\\PC{0,6}", vec(name(), 0..3)),
        (option::of(time()), option::of(time()), any::<bool>()),
    )
        .prop_map(|(chosen, pace, leaving, (created, deleted, finalizer))| {
            let mut spec = KataConfigSpec {
                kata_config_pool_selector: chosen.0,
                check_node_eligibility: chosen.1,
                version: chosen.2,
                ..KataConfigSpec::default()
            };
            spec.rollout.max_unavailable = pace.0;
            spec.rollout.canary = pace.1;
            spec.rollout.cordon = chosen.1;
            spec.rollout.max_failures = pace.2;
            let window = |(cron, duration)| Window { cron, duration };
            spec.rollout.windows = pace.3.into_iter().map(window).collect();
            spec.uninstall.force = leaving.0;
            spec.uninstall.grace = leaving.1;
            let runtime = |name| Runtime {
                name,
                ..Runtime::default()
            };
            spec.runtimes = leaving.2.into_iter().map(runtime).collect();
            KataConfig {
                metadata: ObjectMeta {
                    creation_timestamp: created.map(Time),
                    deletion_timestamp: deleted.map(Time),
                    finalizers: finalizer.then(|| vec![FINALIZER.to_owned()]),
                    generation: Some(1),
                    ..ObjectMeta::default()
                },
                spec,
                status: None,
            }
        })
}

prop_compose! {
    fn snapshot()(
        configs in btree_map(name(), config(), 0..4),
        nodes in btree_map(name(), node(), 0..6),
        kata_nodes in btree_map(name(), kata_node(), 0..6),
        pods in btree_map(name(), vec((name(), name(), name()), 0..3), 0..3),
    ) -> Snapshot {
        let pod = |(namespace, name, class)| PodView { namespace, name, class };
        let pods = pods.into_iter();
        Snapshot {
            configs,
            nodes,
            kata_nodes,
            pods: pods.map(|(node, pods)| (node, pods.into_iter().map(pod).collect())).collect(),
            releases: BTreeMap::from([("stable".into(), "1.0.0".into())]),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            ..Snapshot::default()
        }
    }
}

/// Every step is about something that is there, and nothing is too large.
fn check(snapshot: &Snapshot) -> Result<(), TestCaseError> {
    let outcome = plan(snapshot);
    prop_assert!(outcome.wake.is_none_or(|wake| wake > snapshot.now));
    for step in &outcome.steps {
        match &step.change {
            Change::ApplyKataNode { name, spec, .. } => {
                prop_assert!(snapshot.nodes.contains_key(name));
                let known = snapshot.kata_nodes.contains_key(name);
                prop_assert!(known || snapshot.configs.contains_key(&spec.kata_config));
                prop_assert!(known || spec.action == Action::None);
            }
            Change::DeleteKataNode { name } => {
                prop_assert!(snapshot.kata_nodes.contains_key(name));
            }
            Change::PatchNode { name, labels, .. } => {
                prop_assert!(snapshot.nodes.contains_key(name));
                let own = |label: &String| {
                    label == MEMBER_LABEL || label.starts_with(RUNTIME_LABEL_PREFIX)
                };
                prop_assert!(labels.keys().all(own), "{labels:?}");
            }
            Change::SetStatus { status, .. } => {
                let text = format!("{status:?}");
                prop_assert!(text.len() < STATUS_LIMIT, "{} bytes", text.len());
                let mut conditions = status.conditions.iter();
                prop_assert!(conditions.all(|own| own.message.len() < MESSAGE_LIMIT));
            }
            _ => {}
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_cluster_is_too_strange_to_decide_about(snapshot in snapshot()) {
        check(&snapshot)?;
    }
}

#[test]
fn a_status_of_five_thousand_long_names_fits_an_object() {
    let mut snapshot = Snapshot {
        releases: BTreeMap::from([("stable".into(), "1.0.0".into())]),
        now: Timestamp::from_second(1_800_000_000).unwrap(),
        ..Snapshot::default()
    };
    snapshot.configs.insert(
        "kata".into(),
        KataConfig {
            metadata: ObjectMeta {
                finalizers: Some(vec![FINALIZER.to_owned()]),
                ..ObjectMeta::default()
            },
            ..KataConfig::default()
        },
    );
    let phases = [
        (Action::Install, NodePhase::Installing),
        (Action::Install, NodePhase::Failed),
        (Action::Install, NodePhase::Ready),
        (Action::Uninstall, NodePhase::Uninstalling),
    ];
    for number in 0..5000 {
        let name = format!("{number:04}{}", "x".repeat(249));
        let (action, phase) = phases[number % phases.len()];
        let node = NodeView {
            labels: BTreeMap::from([(WORKER_LABEL.to_owned(), String::new())]),
            ready: number % 5 != 0,
            machine_id: "m".into(),
            ..NodeView::default()
        };
        let kata_node = KataNode {
            spec: KataNodeSpec {
                kata_config: "kata".into(),
                action,
                version: Some("1.0.0".into()),
                machine_id: "m".into(),
                ..KataNodeSpec::default()
            },
            status: Some(KataNodeStatus {
                phase,
                machine_id: "m".into(),
                last_error: Some("ä".repeat(1024)),
                ..KataNodeStatus::default()
            }),
            ..KataNode::default()
        };
        snapshot.nodes.insert(name.clone(), node);
        snapshot.kata_nodes.insert(name, kata_node);
    }
    check(&snapshot).unwrap();
    let steps = plan(&snapshot).steps;
    let status = |step: &crate::Step| matches!(step.change, Change::SetStatus { .. });
    assert!(steps.iter().any(status));
}

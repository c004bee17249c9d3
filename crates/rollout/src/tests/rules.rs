//! One rule each.

use bulkhead_kataconfig::*;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;

use super::world::{Faults, World};
use crate::window::Windows;
use crate::{ClassView, plan};

fn installed(nodes: usize) -> World {
    let mut world = World::new(nodes, 1);
    world.config("kata", |_| {});
    world.settle();
    assert_eq!(world.condition("kata", "Ready").0, "True");
    world
}

fn running(world: &World) -> usize {
    let machines = world.machines.values();
    machines
        .filter(|machine| machine.installed.is_some())
        .count()
}

#[test]
fn the_first_step_is_the_finalizer_and_the_plan_is_told() {
    let mut world = World::new(3, 1);
    world.config("kata", |spec| spec.rollout.paused = true);
    world.settle();
    assert_eq!(running(&world), 0, "paused");
    let status = world.status("kata");
    assert_eq!(status.plan.total, 3);
    assert_eq!(status.plan.steps[0].node, "node-0000");
    assert_eq!(status.plan.steps[0].action, PlanAction::Install);
    assert_eq!(status.plan.steps[0].version.as_deref(), Some("1.0.0"));
    let (progressing, reason, message) = world.condition("kata", "Progressing");
    assert_eq!((progressing, reason), ("True", "Waiting"));
    assert!(message.contains("paused"), "{message}");

    world.config("kata", |spec| spec.rollout.paused = false);
    world.settle();
    assert_eq!(running(&world), 3);
    assert_eq!(world.status("kata").kata_nodes.ready_node_count, 3);
    assert_eq!(world.status("kata").runtime_classes, ["kata"]);
    assert!(
        world
            .snapshot
            .nodes
            .values()
            .all(|node| !node.startup_taint)
    );
}

#[test]
fn what_is_not_provided_is_refused_in_a_sentence() {
    for (edit, reason) in [
        (
            (|spec| spec.node_install = NodeInstall::MachineConfig) as fn(&mut KataConfigSpec),
            "NoMachineConfigs",
        ),
        (|spec| spec.enable_peer_pods = true, "PeerPodsNotProvided"),
        (|spec| spec.channel = "nightly".into(), "UnknownChannel"),
        (
            |spec| {
                let window = Window {
                    cron: "never".into(),
                    duration: "1h".into(),
                };
                spec.rollout.windows.push(window);
            },
            "InvalidWindow",
        ),
        (
            |spec| {
                let requirement = LabelSelectorRequirement {
                    key: "a".into(),
                    operator: "Is".into(),
                    values: None,
                };
                spec.kata_config_pool_selector = Some(LabelSelector {
                    match_expressions: Some(vec![requirement]),
                    match_labels: None,
                });
            },
            "InvalidSelector",
        ),
    ] {
        // On a new KataConfig nothing is done.
        let mut world = World::new(2, 1);
        world.config("kata", edit);
        world.settle();
        assert_eq!(world.condition("kata", "Blocked").1, reason);
        assert!(world.snapshot.kata_nodes.is_empty());
        // On one at work everything stays as it is.
        let mut world = installed(2);
        world.config("kata", edit);
        world.settle();
        assert_eq!(world.condition("kata", "Blocked").1, reason);
        assert_eq!(running(&world), 2, "{reason}");
        assert_eq!(world.labelled(&runtime_label("kata")), 2, "{reason}");
        // It can be deleted all the same.
        world.delete_config("kata");
        world.settle();
        assert!(
            world.snapshot.configs.is_empty() && running(&world) == 0,
            "{reason}"
        );
    }
}

#[test]
fn a_foreign_runtime_class_is_left_alone() {
    let mut world = World::new(2, 1);
    let foreign = ClassView {
        handler: "kata".into(),
        ..ClassView::default()
    };
    world
        .snapshot
        .classes
        .insert("kata".into(), foreign.clone());
    world.config("kata", |_| {});
    world.settle();
    assert_eq!(world.condition("kata", "Blocked").1, "RuntimeClassNotOurs");
    assert_eq!(world.snapshot.classes["kata"], foreign);
    assert!(world.snapshot.kata_nodes.is_empty());
}

#[test]
fn the_older_of_two_keeps_the_node_and_the_younger_says_so() {
    let mut world = installed(4);
    world.config("younger", |_| {});
    world.settle();
    let (blocked, reason, message) = world.condition("younger", "Blocked");
    assert_eq!((blocked, reason), ("True", "NodesOwnedByOther"));
    assert!(
        message.contains("kata") && message.contains("node-0000"),
        "{message}"
    );
    assert_eq!(world.condition("kata", "Blocked").0, "False");
    // When the older one goes, the younger one takes over without a gap in
    // what is remembered.
    world.delete_config("kata");
    world.settle();
    assert_eq!(
        world.snapshot.configs.keys().collect::<Vec<_>>(),
        ["younger"]
    );
    assert_eq!(world.condition("younger", "Ready").0, "True");
    assert_eq!(running(&world), 4);
}

#[test]
fn machines_that_cannot_are_ineligible_and_hold_nobody_up() {
    let mut world = World::new(3, 1);
    world.machines.get_mut("node-0001").unwrap().capable = false;
    world.config("kata", |_| {});
    world.settle();
    assert_eq!(world.status("kata").kata_nodes.ineligible, ["node-0001"]);
    assert_eq!(world.condition("kata", "Ready").0, "True");
    assert_eq!(world.condition("kata", "Degraded").0, "False");
}

#[test]
fn a_worker_need_not_be_labelled_but_the_control_plane_is_none() {
    let mut world = World::new(4, 1);
    let roles = [
        None,
        Some("control-plane"),
        Some("master"),
        Some("control-plane"),
    ];
    for (node, role) in world.snapshot.nodes.values_mut().zip(roles) {
        node.labels.remove(WORKER_LABEL);
        let role = role.map(|role| format!("node-role.kubernetes.io/{role}"));
        node.labels.extend(role.map(|role| (role, String::new())));
    }
    // Who labels it wants it.
    let both = world.snapshot.nodes.get_mut("node-0003").unwrap();
    both.labels.insert(WORKER_LABEL.to_owned(), String::new());
    world.config("kata", |_| {});
    world.settle();
    let installed = |name: &str| world.machines[name].installed.is_some();
    let nodes = ["node-0000", "node-0001", "node-0002", "node-0003"];
    assert_eq!(nodes.map(installed), [true, false, false, true]);
}

#[test]
fn eligibility_can_be_left_to_node_feature_discovery() {
    let mut world = World::new(3, 1);
    let node = world.snapshot.nodes.get_mut("node-0002").unwrap();
    node.labels.insert(FEATURE_LABEL.into(), "true".into());
    world.config("kata", |spec| spec.check_node_eligibility = true);
    world.settle();
    assert_eq!(world.status("kata").kata_nodes.installed, ["node-0002"]);
    assert_eq!(world.snapshot.kata_nodes.len(), 1);
}

#[test]
fn failures_stop_the_rollout_and_are_tried_again() {
    let mut world = World::new(10, 5);
    world.faults = Faults {
        fail: 1000,
        ..Faults::default()
    };
    world.config("kata", |spec| spec.rollout.max_failures = 2);
    for _ in 0..100 {
        world.tick();
    }
    let nodes = &world.status("kata").kata_nodes;
    assert_eq!(nodes.counts["waitingToInstall"], 8);
    assert!(nodes.installed.is_empty());
    assert_eq!(world.condition("kata", "Degraded").0, "True");
    assert!(
        world
            .snapshot
            .kata_nodes
            .values()
            .any(|node| node.spec.attempt > 1),
        "no retry"
    );
    world.faults = Faults::default();
    world.settle();
    assert_eq!(running(&world), 10);
}

#[test]
fn what_the_api_server_refuses_is_told_and_forgotten() {
    let mut world = installed(2);
    world.snapshot.refused = Some("to apply the KataNode node-0000: \u{e4}".repeat(20));
    world.settle();
    let (degraded, reason, message) = world.condition("kata", "Degraded");
    assert_eq!((degraded, reason), ("True", "WritesRefused"));
    assert!(
        message.contains("node-0000") && message.len() < 400,
        "{message}"
    );
    assert_eq!(world.condition("kata", "Ready").0, "True");
    world.snapshot.refused = None;
    world.settle();
    assert_eq!(world.condition("kata", "Degraded").0, "False");
}

#[test]
fn a_node_is_closed_while_it_is_changed_and_others_keep_theirs() {
    let mut world = World::new(3, 1);
    // Somebody else closed this one.
    let closed = "node-0001";
    let node = world.snapshot.nodes.get_mut(closed).unwrap();
    node.unschedulable = true;
    world.config("kata", |spec| spec.rollout.cordon = true);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        world.tick();
        let nodes = world.snapshot.nodes.iter();
        let ours: Vec<_> = nodes.filter(|(_, node)| node.cordoned).collect();
        assert!(ours.len() <= 1, "more than are changed");
        seen.extend(ours.into_iter().map(|(name, _)| name.clone()));
    }
    let names: Vec<_> = seen.iter().map(String::as_str).collect();
    assert_eq!(names, ["node-0000", "node-0002"]);
    let unschedulable = |name: &str| world.snapshot.nodes[name].unschedulable;
    assert!(unschedulable(closed) && !unschedulable("node-0000"));
    assert_eq!(running(&world), 3);
    world.delete_config("kata");
    world.settle();
    assert!(world.snapshot.nodes[closed].unschedulable);
    assert!(!world.snapshot.nodes["node-0002"].unschedulable);
}

#[test]
fn canaries_go_first() {
    let mut world = World::new(20, 2);
    world.config("kata", |spec| {
        spec.rollout.canary = 2;
        spec.rollout.max_unavailable = IntOrString::Int(20);
    });
    while running(&world) < 2 {
        world.tick();
        let touched = world.snapshot.kata_nodes.values();
        let told = touched.filter(|node| node.spec.version.is_some()).count();
        assert!(told <= 2 || running(&world) >= 2, "{told}");
    }
    world.settle();
    assert_eq!(running(&world), 20);
}

#[test]
fn nodes_start_in_windows_only() {
    let mut world = World::new(3, 1);
    // The world's clock begins on a Friday at 08:00.
    world.config("kata", |spec| {
        let window = Window {
            cron: "0 22 * * 1-5".into(),
            duration: "2h".into(),
        };
        spec.rollout.windows.push(window);
    });
    for _ in 0..50 {
        world.tick();
    }
    assert_eq!(running(&world), 0);
    let wake = plan(&world.snapshot)
        .wake
        .expect("it would sleep through the window");
    assert_eq!(wake.to_string(), "2027-01-15T22:00:00Z");
    world.snapshot.now = wake;
    world.settle();
    assert_eq!(running(&world), 3);
}

#[test]
fn running_pods_keep_their_node_and_are_named() {
    let mut world = installed(2);
    world.run_pod("node-0001", "kata");
    world.delete_config("kata");
    world.pods_end = 0;
    world.settle();
    assert_eq!(world.labelled(&runtime_label("kata")), 0, "no new pods");
    assert_eq!(running(&world), 1);
    let (blocked, reason, message) = world.condition("kata", "Blocked");
    assert_eq!((blocked, reason), ("True", "BlockedByExistingKataPods"));
    assert!(message.contains("node-0001 by shop/web-"), "{message}");
    assert_eq!(
        world.condition("kata", "InProgress").1,
        "BlockedByExistingKataPods"
    );
    assert_eq!(world.status("kata").plan.steps[0].blocked_by.len(), 1);

    world.snapshot.pods.clear();
    world.settle();
    assert!(world.snapshot.configs.is_empty() && world.snapshot.classes.is_empty());
}

#[test]
fn force_waits_for_the_grace_and_no_longer() {
    let mut world = installed(1);
    world.config("kata", |spec| {
        spec.uninstall = Uninstall {
            force: true,
            grace: "1h".into(),
        };
    });
    world.run_pod("node-0000", "kata");
    world.delete_config("kata");
    world.pods_end = 0;
    let begin = world.snapshot.now;
    while running(&world) == 1 {
        world.tick();
    }
    let waited = world.snapshot.now.duration_since(begin);
    assert!(waited >= SignedDuration::from_mins(60), "{waited:?}");
    assert!(waited < SignedDuration::from_mins(70), "{waited:?}");
}

#[test]
fn an_unreachable_node_holds_nothing_up_and_is_cleaned_when_it_returns() {
    let mut world = installed(3);
    world.machines_return = 0;
    world.set_reachable("node-0001", false);
    world.delete_config("kata");
    world.settle();
    assert!(world.snapshot.configs.is_empty(), "the finalizer hangs");
    assert_eq!(
        world.snapshot.kata_nodes.keys().collect::<Vec<_>>(),
        ["node-0001"]
    );
    assert_eq!(running(&world), 1);
    world.set_reachable("node-0001", true);
    world.settle();
    assert!(world.snapshot.kata_nodes.is_empty());
    assert_eq!(running(&world) + world.labelled(MEMBER_LABEL), 0);
}

#[test]
fn a_node_that_never_answers_is_told_of_and_keeps_its_place() {
    let mut world = World::new(3, 1);
    world.config("kata", |_| {});
    while world
        .snapshot
        .kata_nodes
        .values()
        .all(|node| node.spec.version.is_none())
    {
        world.tick();
    }
    // Its kubelet is well; its agent is not heard of any more.
    world.machines.get_mut("node-0000").unwrap().mute = true;
    world.settle();
    let (degraded, reason, message) = world.condition("kata", "Degraded");
    assert_eq!((degraded, reason), ("True", "NodesStalled"));
    assert!(message.contains("node-0000"), "{message}");
    assert_eq!(running(&world), 0, "its place was given away");
    world.machines.get_mut("node-0000").unwrap().mute = false;
    world.settle();
    assert_eq!(running(&world), 3);
    assert_eq!(world.condition("kata", "Degraded").0, "False");
}

#[test]
fn nodes_join_leave_and_are_replaced() {
    let mut world = installed(2);
    world.join("node-0100");
    world.remove_node("node-0000");
    world.settle();
    assert_eq!(
        world.status("kata").kata_nodes.installed,
        ["node-0001", "node-0100"]
    );
    assert!(!world.snapshot.kata_nodes.contains_key("node-0000"));
    // The same name, another object.
    world.remove_node("node-0001");
    world.join("node-0001");
    world.settle();
    assert_eq!(world.status("kata").kata_nodes.ready_node_count, 2);
}

#[test]
fn a_handler_that_is_given_up_stays_under_its_pods() {
    let mut world = World::new(1, 1);
    let runtime = |name: &str| Runtime {
        name: name.into(),
        ..Runtime::default()
    };
    world.config("kata", |spec| {
        spec.runtimes = vec![runtime("kata"), runtime("kata-old")]
    });
    world.settle();
    world.run_pod("node-0000", "kata-old");
    world.pods_end = 0;
    world.config("kata", |spec| spec.runtimes = vec![runtime("kata")]);
    world.settle();
    assert_eq!(world.labelled(&runtime_label("kata-old")), 0);
    assert_eq!(
        world.snapshot.kata_nodes["node-0000"].spec.handlers.len(),
        2
    );
    world.snapshot.pods.clear();
    world.settle();
    assert_eq!(
        world.snapshot.kata_nodes["node-0000"].spec.handlers.len(),
        1
    );
    assert_eq!(world.snapshot.classes.keys().collect::<Vec<_>>(), ["kata"]);
}

#[test]
fn overhead_is_computed_or_given() {
    let mut world = installed(1);
    assert_eq!(world.snapshot.classes["kata"].memory, "350Mi");
    world.config("kata", |spec| {
        spec.runtimes = vec![Runtime {
            name: "kata".into(),
            defaults: Machine {
                vcpus: None,
                memory: Some("4Gi".into()),
            },
            overhead: Overhead {
                cpu: Some("1".into()),
                memory: None,
            },
            ..Runtime::default()
        }];
    });
    world.settle();
    let class = &world.snapshot.classes["kata"];
    assert_eq!(
        (class.cpu.as_str(), class.memory.as_str()),
        ("1000m", "358Mi")
    );
}

proptest! {
    #[test]
    fn no_window_is_too_strange_to_be_read_or_refused(
        cron in "[0-9*/,L#a-zA-Z -]{0,30}|[0-9*]{1,3} [0-9*]{1,3} [0-9*]{1,2} [0-9*]{1,2} [0-9*]",
        duration in "[0-9]{0,7}[smhd]?",
        seconds in 0i64..4_000_000_000,
    ) {
        if let Ok(windows) = Windows::read(&[Window { cron, duration }]) {
            let now = jiff::Timestamp::from_second(seconds).unwrap();
            windows.open(now);
            if let Some(next) = windows.next(now) {
                prop_assert!(next > now);
            }
        }
    }
}

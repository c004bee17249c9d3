//! Lives of clusters with a Machine Config Operator.

use bulkhead_kataconfig::*;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::world::{Faults, World};
use crate::machine::{CONFIG, POOL};
use crate::{MachineConfigView, PoolView, plan};

const BAD_DAYS: Faults = Faults {
    fail: 0,
    crash: 5,
    replace: 2,
    lie: 0,
    kill_controller: 300,
};

fn bad_days(world: &mut World, ticks: usize) {
    let mco = world.mco.as_mut().unwrap();
    (mco.degrade, mco.die, mco.foreign) = (100, 20, 15);
    world.faults = BAD_DAYS;
    for _ in 0..ticks {
        world.tick();
    }
    world.faults = Faults::default();
    let mco = world.mco.as_mut().unwrap();
    (mco.degrade, mco.die, mco.foreign) = (0, 0, 0);
    world.settle();
    assert_eq!(
        plan(&world.snapshot).steps,
        [],
        "at rest nothing is written"
    );
}

fn installed(nodes: usize) -> World {
    let mut world = World::new(nodes, 1).with_mco();
    world.config("kata", |_| {});
    world.settle();
    assert_eq!(world.condition("kata", "Ready").0, "True");
    world
}

fn running(world: &World) -> usize {
    let machines = world.machines.values();
    machines.filter(|m| m.installed.is_some()).count()
}

fn nothing_is_left(world: &mut World) {
    assert!(world.snapshot.configs.is_empty(), "the finalizer");
    assert!(world.snapshot.classes.is_empty(), "the class");
    assert_eq!(running(world), 0);
    assert_eq!(world.labelled(MEMBER_LABEL), 0);
    assert_eq!(world.labelled(&runtime_label("kata")), 0);
    let mut nodes = world.snapshot.nodes.values();
    assert!(nodes.all(|node| node.withdrawn_since.is_none()));
    let views = world.machine_configs();
    assert!(!views.pools.contains_key(POOL), "the pool");
    assert!(!views.configs.contains_key(CONFIG), "the MachineConfig");
}

fn life(nodes: usize, seed: u64, at_once: i32) {
    let mut world = World::new(nodes, seed).with_mco();
    world.pods_wanted = 1;
    world.config("kata", |spec| {
        spec.node_install = NodeInstall::MachineConfig;
        spec.rollout.max_unavailable = IntOrString::Int(at_once);
        spec.rollout.canary = 2;
        spec.rollout.max_failures = 3;
    });
    bad_days(&mut world, 80);
    assert_eq!(world.condition("kata", "Ready").0, "True", "seed {seed}");
    assert_eq!(
        world.labelled(&runtime_label("kata")),
        nodes,
        "seed {seed}: {:#?} {:?}",
        world.snapshot.nodes,
        world.status("kata").kata_nodes
    );
    assert!(world.snapshot.kata_nodes.is_empty(), "no agent is asked");

    let odd = [("pool".to_owned(), "odd".to_owned())];
    world.config("kata", |spec| {
        spec.kata_config_pool_selector = Some(LabelSelector {
            match_labels: Some(odd.into()),
            match_expressions: None,
        });
    });
    bad_days(&mut world, 80);
    for (name, node) in &world.snapshot.nodes {
        let odd = node.labels["pool"] == "odd";
        let there = world.machines[name].installed.is_some();
        assert_eq!(there, odd, "seed {seed}: {name}");
        let member = node.labels.contains_key(MEMBER_LABEL);
        assert_eq!(member, odd, "seed {seed}: {name}");
    }
    world.pods_wanted = 0;
    world.delete_config("kata");
    bad_days(&mut world, 80);
    nothing_is_left(&mut world);
}

#[test]
fn pools_live_through_bad_days() {
    for seed in 0..40 {
        life(4 + (seed as usize % 5) * 4, seed, 1 + (seed % 3) as i32);
    }
}

#[test]
fn a_large_pool_lives_through_bad_days() {
    life(300, 11, 20);
}

#[test]
fn a_converged_cluster_lives_through_bad_days() {
    for seed in 0..30 {
        let mut world = World::new(1 + seed as usize % 3, seed).with_mco();
        world.converge();
        world.pods_wanted = 1;
        world.config("kata", |_| {});
        bad_days(&mut world, 60);
        let nodes = &world.snapshot.nodes;
        assert_eq!(
            world.condition("kata", "Ready").0,
            "True",
            "seed {seed}: {nodes:#?} {:#?}",
            world.status("kata")
        );
        let views = world.machine_configs();
        assert_eq!(views.configs[CONFIG].role, "master");
        assert!(!views.pools.contains_key(POOL));
        world.pods_wanted = 0;
        world.delete_config("kata");
        bad_days(&mut world, 60);
        nothing_is_left(&mut world);
    }
}

#[test]
fn deletion_in_the_middle_leaves_nothing() {
    for seed in 0..30 {
        let mut world = World::new(6, seed).with_mco();
        world.config("kata", |_| {});
        for _ in 0..seed {
            world.tick();
        }
        world.delete_config("kata");
        world.settle();
        nothing_is_left(&mut world);
    }
}

#[test]
fn anothers_rollout_is_not_ours() {
    let mut world = installed(4);
    let mco = world.mco.as_mut().unwrap();
    (mco.release, mco.degrade) = (7, 1000);
    for _ in 0..60 {
        world.tick();
        assert_eq!(world.status("kata").kata_nodes.installed.len(), 4);
        assert_eq!(world.condition("kata", "Progressing").0, "False");
        assert_eq!(world.condition("kata", "InProgress").0, "False");
        assert_ne!(world.condition("kata", "Degraded").1, "NodesFailed");
    }
    let degraded = |world: &World| {
        let mut nodes = world.snapshot.nodes.values();
        nodes.any(|node| node.machine.as_ref().unwrap().state == "Degraded")
    };
    assert!(degraded(&world), "it tests nothing");
    // Who joins meanwhile waits for it.
    world.join("node-0100");
    world.mco.as_mut().unwrap().degrade = 0;
    world.settle();
    assert_eq!(running(&world), 5);
}

#[test]
fn the_reason_of_a_failure_is_the_mcos() {
    let mut world = World::new(3, 1).with_mco();
    world.mco.as_mut().unwrap().degrade = 1000;
    world.config("kata", |_| {});
    for _ in 0..60 {
        world.tick();
        let nodes = &world.status("kata").kata_nodes;
        assert!(nodes.installing.len() + nodes.failed_to_install.len() <= 1);
    }
    let (degraded, reason, message) = world.condition("kata", "Degraded");
    assert_eq!((degraded, reason), ("True", "NodesFailed"));
    assert!(
        message.contains("Node node-0000 Degraded: the disk is full"),
        "{message}"
    );
    // What failed can be taken back.
    world.delete_config("kata");
    world.mco.as_mut().unwrap().degrade = 0;
    world.settle();
    nothing_is_left(&mut world);
}

#[test]
fn a_pause_is_honoured_whosever_it_is() {
    let mut world = World::new(2, 1).with_mco();
    world.config("kata", |spec| spec.rollout.paused = true);
    world.settle();
    assert_eq!(world.labelled(MEMBER_LABEL), 0);
    assert!(!world.machine_configs().configs.contains_key(CONFIG));
    let step = &world.status("kata").plan.steps[0];
    assert!(step.restarts[0].contains("reboots"), "{step:?}");
    assert_eq!(step.version, None);

    world.config("kata", |spec| spec.rollout.paused = false);
    world.tick();
    let pool = world.machine_configs().pools.get_mut(POOL).unwrap();
    pool.paused = true;
    world.settle();
    assert_eq!(running(&world), 0);
    let (_, _, message) = world.condition("kata", "Progressing");
    assert!(message.contains("`kata-oc` to be resumed"), "{message}");
    world.machine_configs().pools.get_mut(POOL).unwrap().paused = false;
    world.settle();
    assert_eq!(running(&world), 2);
}

#[test]
fn running_pods_keep_their_node_until_the_grace_is_over() {
    let mut world = installed(2);
    world.pods_end = 0;
    world.run_pod("node-0001", "kata");
    world.delete_config("kata");
    world.settle();
    assert_eq!(running(&world), 1);
    assert_eq!(
        world.condition("kata", "Blocked").1,
        "BlockedByExistingKataPods"
    );
    assert!(world.snapshot.nodes["node-0001"].withdrawn_since.is_some());
    world.config("kata", |spec| {
        spec.uninstall = Uninstall {
            force: true,
            grace: "5h".into(),
        };
    });
    world.settle();
    assert_eq!(running(&world), 1, "before the grace is over");
    world.snapshot.now += SignedDuration::from_hours(5);
    world.settle();
    nothing_is_left(&mut world);
}

#[test]
fn a_lost_node_keeps_the_pool_and_not_the_kataconfig() {
    let mut world = installed(3);
    world.machines_return = 0;
    world.set_reachable("node-0001", false);
    world.delete_config("kata");
    world.settle();
    assert!(world.snapshot.configs.is_empty(), "the finalizer hangs");
    assert!(world.machine_configs().pools.contains_key(POOL));
    world.set_reachable("node-0001", true);
    world.settle();
    nothing_is_left(&mut world);
}

#[test]
fn what_is_somebody_elses_blocks_and_stays() {
    let foreign = MachineConfigView {
        role: "worker".into(),
        extensions: vec![super::mco::EXTENSION.into()],
        ..MachineConfigView::default()
    };
    let mut world = World::new(2, 1).with_mco();
    world
        .machine_configs()
        .configs
        .insert("99-mine".into(), foreign);
    world.config("kata", |_| {});
    world.settle();
    let (_, reason, message) = world.condition("kata", "Blocked");
    assert_eq!(reason, "MachineConfigNotOurs");
    assert!(message.contains("99-mine"), "{message}");

    let mut world = World::new(2, 1).with_mco();
    world
        .machine_configs()
        .pools
        .insert(POOL.into(), PoolView::default());
    world.config("kata", |_| {});
    world.settle();
    assert_eq!(world.condition("kata", "Blocked").1, "PoolNotOurs");
    assert_eq!(world.labelled(MEMBER_LABEL), 0);
}

#[test]
fn what_an_extension_cannot_do_is_refused() {
    for (edit, reason) in [
        (
            (|spec| spec.version = Some("1.0.0".into())) as fn(&mut KataConfigSpec),
            "VersionFromSystem",
        ),
        (
            |spec| {
                spec.runtimes = vec![Runtime {
                    name: "other".into(),
                    ..Runtime::default()
                }];
            },
            "RuntimeFromSystem",
        ),
    ] {
        let mut world = installed(2);
        world.config("kata", edit);
        world.settle();
        assert_eq!(world.condition("kata", "Blocked").1, reason);
        assert_eq!(running(&world), 2, "{reason}");
        world.delete_config("kata");
        world.settle();
        nothing_is_left(&mut world);
    }
}

#[test]
fn a_converged_pool_is_taken_whole_or_not() {
    let mut world = World::new(3, 1).with_mco();
    world.converge();
    let odd = [("pool".to_owned(), "odd".to_owned())];
    world.config("kata", |spec| {
        spec.kata_config_pool_selector = Some(LabelSelector {
            match_labels: Some(odd.into()),
            match_expressions: None,
        });
    });
    world.settle();
    assert_eq!(world.condition("kata", "Blocked").1, "PoolPartlySelected");
    assert_eq!(running(&world), 0);
}

#[test]
fn the_second_of_two_waits_and_takes_over_without_a_reboot() {
    let mut world = installed(3);
    world.config("younger", |_| {});
    world.settle();
    assert_eq!(world.condition("younger", "Blocked").1, "PoolOfOther");
    let before = world.snapshot.nodes.clone();
    world.delete_config("kata");
    world.settle();
    assert_eq!(world.condition("younger", "Ready").0, "True");
    assert_eq!(world.snapshot.nodes, before);
}

#[test]
fn agents_keep_what_they_installed() {
    let mut world = World::new(2, 1);
    world.config("kata", |_| {});
    world.settle();
    let mut world = world.with_mco();
    world.settle();
    assert_eq!(world.snapshot.kata_nodes.len(), 2);
    assert!(!world.machine_configs().pools.contains_key(POOL));
    assert_eq!(world.condition("kata", "Ready").0, "True");
}

//! Whole lives of clusters, with seeds. The world checks at every write what
//! must never happen; here is what must have happened at the end.

use bulkhead_kataconfig::*;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::world::{Faults, World};
use crate::plan;

const BAD_DAYS: Faults = Faults {
    fail: 100,
    crash: 5,
    replace: 2,
    lie: 50,
    kill_controller: 300,
};

fn only(pool: &str) -> Option<LabelSelector> {
    Some(LabelSelector {
        match_labels: Some([("pool".to_owned(), pool.to_owned())].into()),
        match_expressions: None,
    })
}

/// Faults for a while, then good weather until nothing moves.
fn bad_days(world: &mut World, ticks: usize) {
    world.faults = BAD_DAYS;
    for _ in 0..ticks {
        world.tick();
    }
    world.faults = Faults::default();
    world.settle();
    let mut nodes = world.snapshot.nodes.values();
    assert!(
        nodes.all(|node| !node.unschedulable && !node.cordoned),
        "a node stays closed"
    );
    assert_eq!(
        plan(&world.snapshot).steps,
        [],
        "at rest nothing is written"
    );
}

fn life(nodes: usize, seed: u64, at_once: i32) {
    let mut world = World::new(nodes, seed);
    world.pods_wanted = 1;
    world.config("kata", |spec| {
        spec.rollout.max_unavailable = IntOrString::Int(at_once);
        spec.rollout.canary = 2;
        spec.rollout.max_failures = 3;
        spec.rollout.cordon = seed.is_multiple_of(2);
    });
    bad_days(&mut world, 60);
    let label = runtime_label("kata");
    assert_eq!(
        world.labelled(&label),
        nodes,
        "seed {seed}: {:?}",
        world.status("kata")
    );
    assert_eq!(world.condition("kata", "Ready").0, "True");
    assert!(world.snapshot.classes.contains_key("kata"));

    world
        .snapshot
        .releases
        .insert("stable".into(), "2.0.0".into());
    bad_days(&mut world, 60);
    let versions = world
        .machines
        .values()
        .map(|machine| machine.installed.as_deref());
    assert!(
        versions.into_iter().all(|version| version == Some("2.0.0")),
        "seed {seed}"
    );

    world.config("kata", |spec| spec.kata_config_pool_selector = only("odd"));
    bad_days(&mut world, 60);
    for (name, node) in &world.snapshot.nodes {
        let odd = node.labels["pool"] == "odd";
        assert_eq!(
            world.machines[name].installed.is_some(),
            odd,
            "seed {seed}: {name}"
        );
        assert_eq!(
            node.labels.contains_key(MEMBER_LABEL),
            odd,
            "seed {seed}: {name}"
        );
    }

    world.pods_wanted = 0;
    world.delete_config("kata");
    bad_days(&mut world, 60);
    assert!(world.snapshot.configs.is_empty(), "seed {seed}");
    assert!(world.snapshot.kata_nodes.is_empty(), "seed {seed}");
    assert!(world.snapshot.classes.is_empty(), "seed {seed}");
    assert_eq!(
        world.labelled(&label) + world.labelled(MEMBER_LABEL),
        0,
        "seed {seed}"
    );
    assert!(
        world
            .machines
            .values()
            .all(|machine| machine.installed.is_none()),
        "seed {seed}"
    );
}

#[test]
fn small_clusters_live_through_bad_days() {
    for seed in 0..40 {
        life(4 + (seed as usize % 5) * 5, seed, 1 + (seed % 3) as i32);
    }
}

#[test]
fn a_thousand_nodes_live_through_bad_days() {
    life(1000, 7, 60);
}

#[test]
fn the_same_snapshot_gives_the_same_steps() {
    let mut world = World::new(20, 3);
    world.faults = BAD_DAYS;
    world.pods_wanted = 2;
    world.config("kata", |_| {});
    for _ in 0..200 {
        world.tick();
        assert_eq!(plan(&world.snapshot), plan(&world.snapshot.clone()));
    }
}

#[test]
fn deletion_in_the_middle_of_the_installation_comes_to_an_end() {
    for seed in 0..30 {
        let mut world = World::new(10, seed);
        world.config("kata", |spec| {
            spec.rollout.max_unavailable = IntOrString::Int(4)
        });
        for _ in 0..seed {
            world.tick();
        }
        world.delete_config("kata");
        world.settle();
        assert!(world.snapshot.configs.is_empty() && world.snapshot.kata_nodes.is_empty());
        assert!(
            world
                .machines
                .values()
                .all(|machine| machine.installed.is_none())
        );
    }
}

//! Pods of a world.

use super::world::World;
use crate::{NodeView, PodView};

impl World {
    /// Pods come where they are offered a place, and end.
    pub(super) fn schedule(&mut self) {
        for pods in self.snapshot.pods.values_mut() {
            let dice = &mut self.dice;
            pods.retain(|_| !dice.permille(self.pods_end));
        }
        self.snapshot.pods.retain(|_, pods| !pods.is_empty());
        for _ in 0..self.pods_wanted {
            self.serial += 1;
            let Some(class) = self.snapshot.classes.keys().next().cloned() else {
                return;
            };
            let selector = &self.snapshot.classes[&class].node_selector;
            let fits = |node: &NodeView| {
                node.ready && selector.iter().all(|(k, v)| node.labels.get(k) == Some(v))
            };
            let nodes = self.snapshot.nodes.iter();
            let fits: Vec<_> = nodes.filter(|(_, node)| fits(node)).collect();
            if fits.is_empty() {
                return;
            }
            let node = fits[self.dice.below(fits.len())].0.clone();
            self.run_pod(&node, &class);
        }
    }

    pub(super) fn run_pod(&mut self, node: &str, class: &str) {
        self.serial += 1;
        self.snapshot
            .pods
            .entry(node.into())
            .or_default()
            .push(PodView {
                namespace: "shop".into(),
                name: format!("web-{}", self.serial),
                class: class.into(),
            });
    }
}

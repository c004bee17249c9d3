//! Installation by OpenShift's Machine Config Operator (MCO): where a node
//! stands by what the MCO wrote on it, and what the MCO has to be told.
//!
//! ```text
//!   MachineConfig (the extension) ─▶ pool kata-oc ─▶ rendered config
//!                                        ▲                 │ MCO: drain, reboot
//!              node's label kata-oc ─────┘                 ▼
//!                                             node: desiredConfig, state
//! ```
//!
//! The label is the order to a node, given when its turn comes. Where all
//! workers are control-plane nodes (compact and single-node clusters) no pool
//! of our own can hold them: the MachineConfig goes to the pool `master`, and
//! is the order to all of them.
//!
//! A rollout is ours only while a node is on its way to or from a rendered
//! config that holds the extension; what else the MCO does with a node is not.

mod objects;

pub(crate) use objects::{provide, retire, tell};

use bulkhead_kataconfig::{
    Action, CONTROL_PLANE_LABELS, DEFAULT_HANDLER, KataConfig, KataNodeSpec, MEMBER_LABEL,
    NodeInstall, Runtime, WORKER_LABEL,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};

use crate::STALLED_AFTER;
use crate::snapshot::{MachineConfigs, NodeView, Snapshot};
use crate::standing::{Standing, State, force_at, installation, orphaned_at, using, wait_for_pods};
use crate::want::{Obstacle, Want};

/// The MachineConfig, named as the OSC operator's.
pub(crate) const CONFIG: &str = "50-enable-sandboxed-containers-extension";
/// The pool, named as the OSC operator's.
pub(crate) const POOL: &str = "kata-oc";
/// The label of MachineConfigs by which pools take them.
const ROLE_LABEL: &str = "machineconfiguration.openshift.io/role";
const MASTER: &str = "master";
const WORKER: &str = "worker";

/// What a node is to the MCO.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seat {
    /// Whether it is in the pool, or has or is to have the extension.
    pub(crate) touched: bool,
    /// Whether its system has the extension now.
    pub(crate) there: bool,
    /// Whether it was told something that the MCO has not taken up yet.
    pub(crate) unheard: bool,
    /// Whether it belongs to a pool that is not ours.
    pub(crate) whole_pool: bool,
    /// The MCO's reason for a failure of what we asked for.
    pub(crate) error: Option<String>,
    /// What holds it up.
    pub(crate) waits: Option<String>,
    /// When it counts as stalled.
    pub(crate) stalls: Option<jiff::Timestamp>,
}

/// The MCO, and whose business it does.
pub(crate) struct Machines<'a> {
    views: &'a MachineConfigs,
    /// The pool `master` instead of our own.
    converged: bool,
    holder: Option<usize>,
}

/// Whether a `KataConfig` is for the MCO. One that has `KataNode`s already
/// stays with their agents.
pub(crate) fn chosen(snapshot: &Snapshot, name: &str, config: &KataConfig) -> bool {
    let by_agents = || {
        let mut all = snapshot.kata_nodes.values();
        all.any(|node| node.spec.kata_config == name)
    };
    snapshot.machine_configs.is_some()
        && match config.spec.node_install {
            NodeInstall::MachineConfig => true,
            NodeInstall::Auto => !by_agents(),
            NodeInstall::NodeAgent | NodeInstall::Preinstalled => false,
        }
}

/// What a system's extension cannot do.
pub(crate) fn refused(config: &KataConfig) -> Option<Obstacle> {
    let spec = &config.spec;
    if spec.version.is_some() {
        let message = "the Machine Config Operator installs the system's own version of the \
                       runtime; take `version` away, or use nodeInstall: nodeAgent";
        return Some(Obstacle {
            reason: "VersionFromSystem",
            message: message.into(),
        });
    }
    let plain = |runtime: &Runtime| {
        let same = Runtime {
            name: DEFAULT_HANDLER.into(),
            overhead: runtime.overhead.clone(),
            ..Runtime::default()
        };
        *runtime == same
    };
    (!spec.runtimes.iter().all(plain)).then(|| Obstacle {
        reason: "RuntimeFromSystem",
        message: "the system's extension has the one runtime `kata` with its own settings; take \
                  the others and their settings away, or use nodeInstall: nodeAgent"
            .into(),
    })
}

/// Who of several has the pool: the oldest that is not being deleted.
fn holder(wants: &[Want<'_>]) -> Option<usize> {
    let of = |deleting| {
        let fits = |want: &Want<'_>| want.by_machine_config && want.deleting == deleting;
        wants.iter().position(fits)
    };
    of(false).or_else(|| of(true))
}

/// What only shows beside the others and the cluster's pools.
pub(crate) fn oppose(snapshot: &Snapshot, wants: &mut [Want<'_>]) {
    let Some(machines) = Machines::new(snapshot, wants) else {
        return;
    };
    let holds = machines.holder.map(|holder| wants[holder].name);
    for want in wants {
        if !want.by_machine_config || want.obstacle.is_some() || want.deleting {
            continue;
        }
        want.obstacle = match holds {
            Some(name) if name != want.name => Some(Obstacle {
                reason: "PoolOfOther",
                message: format!(
                    "the KataConfig `{name}` has the MachineConfigPool; change its selector \
                     instead, or use nodeInstall: nodeAgent"
                ),
            }),
            _ => machines
                .foreign()
                .or_else(|| machines.partly(snapshot, want)),
        };
    }
}

/// No custom pool may hold such a node.
fn control_plane(node: &NodeView) -> bool {
    CONTROL_PLANE_LABELS
        .iter()
        .any(|label| node.labels.contains_key(*label))
}

/// Whether a selector selects a node; one that cannot be read selects nothing.
fn selects(selector: &LabelSelector, node: &NodeView) -> bool {
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(&node.labels))
}

impl<'a> Machines<'a> {
    /// None where the cluster has no MCO.
    pub(crate) fn new(snapshot: &'a Snapshot, wants: &[Want<'_>]) -> Option<Self> {
        let views = snapshot.machine_configs.as_ref()?;
        let own_config = views.configs.get(CONFIG).filter(|own| own.managed);
        let own_pool = views.pools.get(POOL).is_some_and(|pool| pool.managed);
        let mut workers = snapshot
            .nodes
            .values()
            .filter(|node| node.labels.contains_key(WORKER_LABEL))
            .peekable();
        // What was once decided stays, whatever nodes come and go.
        let converged = match own_config {
            Some(own) => own.role == MASTER,
            None => !own_pool && workers.peek().is_some() && workers.all(control_plane),
        };
        let holder = holder(wants);
        Some(Self {
            views,
            converged,
            holder,
        })
    }

    /// Whether a rendered config brings the runtime by our doing.
    fn ours(&self, rendered: &str) -> bool {
        match self.views.configs.get(rendered) {
            Some(view) => {
                let pool = view.pool.as_deref();
                let known = pool == Some(POOL) || pool == Some(MASTER);
                known && view.extensions.contains(&self.views.extension)
            }
            // Swept away, or not heard of yet: not clean until it is known.
            None => rendered.starts_with("rendered-kata-oc-"),
        }
    }

    fn own_pool(&self) -> bool {
        self.views.pools.get(POOL).is_some_and(|pool| pool.managed)
    }

    fn own_config(&self) -> bool {
        let config = self.views.configs.get(CONFIG);
        config.is_some_and(|config| config.managed)
    }

    /// Whether a node has, or is to have, what we install.
    pub(crate) fn touches(&self, node: &NodeView) -> bool {
        let machine = node.machine.as_ref();
        self.labelled(node)
            || machine.is_some_and(|m| self.ours(&m.current) || self.ours(&m.desired))
    }

    fn labelled(&self, node: &NodeView) -> bool {
        self.own_pool() && node.labels.contains_key(MEMBER_LABEL)
    }

    /// Whether a node is told to have the runtime.
    fn told(&self, node: &NodeView) -> bool {
        match self.converged {
            true => self.own_config() && control_plane(node),
            false => self.labelled(node),
        }
    }

    /// Objects of somebody else under our names, or to our end.
    fn foreign(&self) -> Option<Obstacle> {
        let pool = self.views.pools.get(POOL);
        if pool.is_some_and(|pool| !pool.managed) {
            return Some(Obstacle {
                reason: "PoolNotOurs",
                message: format!(
                    "a MachineConfigPool `{POOL}` that is not this operator's exists; remove what \
                     it installed, then the pool"
                ),
            });
        }
        let mut configs = self.views.configs.iter();
        let (name, _) = configs.find(|(name, config)| {
            let enables = config.extensions.contains(&self.views.extension);
            !config.managed && config.pool.is_none() && (enables || *name == CONFIG)
        })?;
        Some(Obstacle {
            reason: "MachineConfigNotOurs",
            message: format!(
                "the MachineConfig `{name}` that is not this operator's enables the extension; \
                 remove it first"
            ),
        })
    }

    /// A pool that is not ours is taken whole or not at all.
    fn partly(&self, snapshot: &Snapshot, want: &Want<'_>) -> Option<Obstacle> {
        let pool = |node: &&NodeView| node.labels.contains_key(WORKER_LABEL) && control_plane(node);
        let mut nodes = snapshot.nodes.values().filter(pool);
        (self.converged && nodes.any(|node| !want.selects(node))).then(|| Obstacle {
            reason: "PoolPartlySelected",
            message: "the workers are control-plane nodes, whose pool `master` is taken whole; \
                      take kataConfigPoolSelector and checkNodeEligibility away"
                .into(),
        })
    }

    /// Why the MCO cannot put a node into our pool.
    fn unfit(&self, node: &NodeView) -> bool {
        let custom = self.views.pools.iter().any(|(name, pool)| {
            ![POOL, MASTER, WORKER].contains(&name.as_str())
                && selects(&pool.spec.node_selector, node)
        });
        match self.converged {
            true => !control_plane(node),
            false => control_plane(node) || custom,
        }
    }

    /// What holds up a node that is not told yet.
    fn not_yet(&self, node: &NodeView) -> Option<String> {
        let Some(machine) = &node.machine else {
            return Some("the Machine Config Operator to take the node".into());
        };
        if machine.state != "Done" || machine.current != machine.desired {
            let reason = match machine.reason.as_str() {
                "" => String::new(),
                reason => format!(" ({reason})"),
            };
            return Some(format!(
                "another rollout of the Machine Config Operator to end{reason}"
            ));
        }
        if self.converged {
            return None;
        }
        match self.views.pools.get(POOL) {
            Some(pool) if pool.paused => Some(paused(POOL)),
            Some(pool) if pool.sources.iter().any(|source| source == CONFIG) => None,
            Some(pool) => Some(match &pool.degraded {
                Some(why) => format!("MachineConfigPool `{POOL}` to be rendered: {why}"),
                None => format!("MachineConfigPool `{POOL}` to be rendered"),
            }),
            None => Some(format!("MachineConfigPool `{POOL}` to be made")),
        }
    }

    /// What holds up the MCO.
    fn unheard(&self) -> String {
        let name = if self.converged { MASTER } else { POOL };
        match self.views.pools.get(name) {
            Some(pool) if pool.paused => paused(name),
            _ => "the Machine Config Operator's turn".into(),
        }
    }

    /// Where a node stands.
    pub(crate) fn stand<'s>(
        &self,
        snapshot: &'s Snapshot,
        wants: &[Want<'_>],
        name: &'s str,
        node: &'s NodeView,
        owner: Option<usize>,
    ) -> Standing<'s> {
        let holder = self.holder.map(|index| &wants[index]);
        let touched = self.touches(node);
        // Whoever cannot be acted on loses nothing.
        let held = holder.is_some_and(|want| !want.deleting && want.obstacle.is_some());
        let owner = owner.or(self.holder.filter(|_| held && touched));
        let machine = node.machine.clone().unwrap_or_default();
        let budget = owner.map(|index| &wants[index]).or(holder);
        let mut standing = Standing {
            name,
            node,
            kata_node: None,
            owner,
            budget: budget.map(|want| want.name.to_owned()).unwrap_or_default(),
            state: State::Clean,
            in_flight: false,
            orphaned: false,
            order: None,
            pods: Vec::new(),
            due: None,
            replaced: false,
            seat: Some(Seat {
                touched,
                there: self.ours(&machine.current),
                whole_pool: self.converged,
                ..Seat::default()
            }),
        };
        match owner {
            Some(index) => self.wanted(&mut standing, snapshot, &wants[index]),
            None => self.unwanted(&mut standing, snapshot, holder),
        }
        standing.orphaned =
            orphaned_at(node, standing.in_flight).is_some_and(|at| at <= snapshot.now);
        standing
    }

    fn wanted(&self, standing: &mut Standing<'_>, snapshot: &Snapshot, want: &Want<'_>) {
        let node = standing.node;
        let machine = node.machine.clone().unwrap_or_default();
        let (now, next) = (self.ours(&machine.current), self.ours(&machine.desired));
        let serves = standing.serves(DEFAULT_HANDLER);
        let order = installation(standing, snapshot, want);
        let mut seat = standing.seat.take().unwrap_or_default();
        standing.in_flight = true;
        standing.state = match (self.told(node), now, next) {
            _ if !seat.touched && self.unfit(node) => {
                standing.in_flight = false;
                State::Ineligible
            }
            (false, ..) => {
                standing.in_flight = now || next;
                seat.waits = self.not_yet(node).filter(|_| !standing.in_flight);
                standing.order = want.obstacle.is_none().then_some(order);
                State::WaitingToInstall
            }
            (true, true, true) if serves => {
                standing.in_flight = false;
                State::Installed
            }
            (true, true, true) => {
                // The system is as it should be, and the kubelet knows better.
                let since = node.ready_changed.filter(|_| node.ready);
                seat.stalls = since.and_then(|since| since.checked_add(STALLED_AFTER).ok());
                State::Installing
            }
            (true, false, true) if degraded(&machine.state) => {
                seat.error = Some(reason(&machine.reason));
                State::FailedToInstall
            }
            (true, false, false) if self.converged => {
                standing.in_flight = false;
                seat.unheard = true;
                seat.waits = Some(self.unheard());
                State::WaitingToInstall
            }
            (true, ..) => {
                seat.unheard = !next;
                seat.waits = seat.unheard.then(|| self.unheard());
                State::Installing
            }
        };
        if standing.state == State::FailedToInstall {
            seat.waits = Some("the Machine Config Operator to recover the node".into());
        }
        standing.seat = Some(seat);
    }

    fn unwanted<'s>(
        &self,
        standing: &mut Standing<'s>,
        snapshot: &'s Snapshot,
        holder: Option<&Want<'_>>,
    ) {
        let node = standing.node;
        let machine = node.machine.clone().unwrap_or_default();
        let (now, next) = (self.ours(&machine.current), self.ours(&machine.desired));
        let mut seat = standing.seat.take().unwrap_or_default();
        standing.state = match (self.told(node), degraded(&machine.state)) {
            (true, _) => State::WaitingToUninstall,
            (false, true) if !next => {
                seat.error = Some(reason(&machine.reason));
                seat.waits = Some("the Machine Config Operator to recover the node".into());
                State::FailedToUninstall
            }
            (false, _) => {
                seat.unheard = next;
                seat.waits = seat.unheard.then(|| self.unheard());
                State::Uninstalling
            }
        };
        standing.in_flight = standing.state != State::WaitingToUninstall || !(now && next);
        standing.seat = Some(seat);
        if standing.state != State::WaitingToUninstall {
            return;
        }
        let handler = bulkhead_kataconfig::HandlerSpec {
            name: DEFAULT_HANDLER.into(),
            ..Default::default()
        };
        standing.pods = using(snapshot, standing.name, std::iter::once(DEFAULT_HANDLER));
        standing.order = Some(KataNodeSpec {
            action: Action::Uninstall,
            handlers: vec![handler],
            ..KataNodeSpec::default()
        });
        let over = force_at(standing, holder);
        wait_for_pods(standing, over);
    }
}

fn paused(pool: &str) -> String {
    format!("MachineConfigPool `{pool}` to be resumed, it is paused")
}

fn degraded(state: &str) -> bool {
    state == "Degraded" || state == "Unreconcilable"
}

fn reason(text: &str) -> String {
    match text {
        "" => "the Machine Config Operator gives no reason".into(),
        text => text.to_owned(),
    }
}

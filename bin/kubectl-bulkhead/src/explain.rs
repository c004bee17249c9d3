//! `explain`: why a node is where it is, and what to do.

use std::fmt;

use bulkhead_kataconfig::{
    Action, CONTROL_PLANE_LABELS, FEATURE_LABEL, KataConfig, KataNode, MEMBER_LABEL, NodePhase,
    WORKER_LABEL,
};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use serde::Serialize;

use crate::fleet::{Fleet, holding};
use crate::text::plain;

/// Annotations of OpenShift's Machine Config Operator.
const MCO: &str = "machineconfiguration.openshift.io";

/// Why a node is where it is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    node: String,
    kata_config: Option<String>,
    state: String,
    why: Vec<String>,
    what_to_do: Vec<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = match &self.kata_config {
            Some(name) => format!(" (KataConfig {name})"),
            None => String::new(),
        };
        writeln!(out, "{}: {}{of}", plain(&self.node), plain(&self.state))?;
        for why in &self.why {
            writeln!(out, "  why: {}", plain(why))?;
        }
        for what in &self.what_to_do {
            writeln!(out, "  do:  {}", plain(what))?;
        }
        Ok(())
    }
}

impl Explanation {
    fn say(&mut self, why: impl Into<String>, what: &str) {
        self.why.push(why.into());
        if !what.is_empty() {
            self.what_to_do.push(what.into());
        }
    }
}

/// Explains a node.
pub(crate) fn explain(fleet: &Fleet, node: &Node) -> Explanation {
    let name = node.name_any();
    let kata_node = fleet.kata_nodes.get(&name);
    let place = fleet.place(&name);
    let ordered = kata_node.map(|own| own.spec.kata_config.as_str());
    let config = place.map(|(config, _)| config).or(ordered);
    // A list holds a hundred names; the agent's word has no such end.
    let phase = kata_node.map(|own| {
        let status = own.status.as_ref();
        format!(
            "{:?}",
            status.map(|status| status.phase).unwrap_or_default()
        )
        .to_lowercase()
    });
    let state = place.map(|(_, list)| list.to_owned()).or(phase);
    let mut explained = Explanation {
        kata_config: config.map(str::to_owned),
        state: state.unwrap_or_else(|| "not part of any KataConfig".into()),
        why: Vec::new(),
        what_to_do: Vec::new(),
        node: name.clone(),
    };
    ready(&mut explained, node);
    if config.is_none() {
        for (name, config) in &fleet.configs {
            unselected(&mut explained, name, config, node);
        }
        if fleet.configs.is_empty() {
            explained.say(
                "there is no KataConfig",
                "apply one, as deploy/samples/kataconfig.yaml",
            );
        }
    }
    let status = config
        .and_then(|config| fleet.configs.get(config))
        .and_then(|config| config.status.as_ref());
    if let Some(message) = status.and_then(|status| holding(status, "Blocked")) {
        explained.say(format!("the KataConfig is blocked: {message}"), "");
    }
    if let Some(step) = fleet.step(&name) {
        if let Some(waits) = &step.waiting_for {
            explained.say(format!("its next step waits for {waits}"), "");
        }
        if !step.blocked_by.is_empty() {
            explained.say(
                format!("running pods keep it: {}", step.blocked_by.join(", ")),
                "end or move these pods, or set uninstall.force and let them die after the grace",
            );
        }
    }
    match kata_node {
        Some(kata_node) => agent(&mut explained, kata_node),
        None => system(&mut explained, node),
    }
    if explained.why.is_empty() {
        explained.say("nothing is in its way", "");
    }
    explained
}

fn ready(explained: &mut Explanation, node: &Node) {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|own| own.type_ == "Ready");
    if ready.is_none_or(|own| own.status != "True") {
        let message = ready
            .and_then(|own| own.message.clone())
            .unwrap_or_default();
        explained.say(
            format!("the node is not ready: {message}"),
            "bring the node back; after ten minutes nobody waits for it, and it is taken up again \
             when it returns",
        );
    }
}

/// Why a `KataConfig` does not select a node.
fn unselected(explained: &mut Explanation, name: &str, config: &KataConfig, node: &Node) {
    let labels = node.labels();
    let spec = &config.spec;
    let has = |label: &str| labels.contains_key(label);
    if !has(WORKER_LABEL) && CONTROL_PLANE_LABELS.into_iter().any(has) {
        explained.say(
            format!(
                "it is a control-plane node without the label `{WORKER_LABEL}`, and {name} takes \
                 workers only"
            ),
            &format!(
                "kubectl label node {} {WORKER_LABEL}=",
                explained.node.clone()
            ),
        );
        return;
    }
    let selector = spec.kata_config_pool_selector.clone().unwrap_or_default();
    match Selector::try_from(selector) {
        Err(error) => explained.say(
            format!("the selector of {name} cannot be read: {error}"),
            "",
        ),
        Ok(selector) if !selector.matches(labels) => explained.say(
            format!("the kataConfigPoolSelector of {name} does not match its labels"),
            "change the selector or the node's labels",
        ),
        Ok(_) => {}
    }
    if spec.check_node_eligibility && labels.get(FEATURE_LABEL).is_none_or(|own| own != "true") {
        explained.say(
            format!(
                "Node Feature Discovery does not say `{FEATURE_LABEL}=true`, and {name} asks for it"
            ),
            "see whether the node has virtualization and Node Feature Discovery runs",
        );
    }
}

/// What the node's agent says, or does not say.
fn agent(explained: &mut Explanation, node: &KataNode) {
    let action = match node.spec.action {
        Action::None => "look",
        Action::Install => "install",
        Action::Uninstall => "uninstall",
    };
    let answered = node
        .status
        .as_ref()
        .filter(|status| status.observed_generation == node.metadata.generation);
    let Some(status) = answered else {
        explained.say(
            format!("its agent has not answered the order to {action}"),
            "see whether the node's agent runs, and its log",
        );
        return;
    };
    let failed = status.preflight.iter().filter(|check| !check.passed);
    for check in failed {
        let message = check.message.as_deref().unwrap_or("no reason given");
        explained.say(
            format!("the check `{}` failed: {message}", check.check),
            "mend what the check names; the agent looks again every verification.interval",
        );
    }
    match status.phase {
        NodePhase::Failed => explained.say(
            format!(
                "try {} to {action} failed: {}",
                node.spec.attempt.saturating_add(1),
                status.last_error.as_deref().unwrap_or("no reason given")
            ),
            "mend the reason; the operator tries again by itself, after 1 to 32 minutes",
        ),
        NodePhase::Installing | NodePhase::Uninstalling => {
            let step = status.step.as_deref().unwrap_or("no step told");
            let percent = status.percent.map(|percent| format!(", {percent} %"));
            explained.say(
                format!("at work: {step}{}", percent.unwrap_or_default()),
                "",
            );
        }
        NodePhase::Ready => {
            let version = status.version.as_deref().unwrap_or("an unknown version");
            let handlers = status.handlers.join(", ");
            explained.say(format!("it serves {handlers} in {version}"), "");
        }
        NodePhase::Idle | NodePhase::Removed => {}
    }
}

/// What OpenShift's Machine Config Operator says.
fn system(explained: &mut Explanation, node: &Node) {
    let get = |key: &str| node.annotations().get(&format!("{MCO}/{key}"));
    let Some(state) = get("state") else {
        return;
    };
    let member = node.labels().contains_key(MEMBER_LABEL);
    let pool = if member { "in" } else { "not in" };
    let text = |key: &str| get(key).cloned().unwrap_or_default();
    let (now, next) = (text("currentConfig"), text("desiredConfig"));
    let way = match now == next {
        true => format!("has {now}"),
        false => format!("goes from {now} to {next}"),
    };
    let mut why = format!("Machine Config Operator: {state}, {pool} the pool kata-oc, {way}");
    let reason = text("reason");
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    let what = match state.as_str() {
        "Degraded" | "Unreconcilable" => {
            "mend the reason; the Machine Config Operator tries again by itself, see its daemon's \
             log on the node"
        }
        _ => "",
    };
    explained.say(why, what);
}

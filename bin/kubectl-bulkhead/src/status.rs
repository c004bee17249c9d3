//! `status` and `plan`.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use bulkhead_kataconfig::{KataConfig, KataConfigStatus, KataNode, PlanAction};
use futures_util::StreamExt;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::Error;
use crate::fleet::{Fleet, holding, settled};
use crate::text::{columns, json as pretty, plain, print};

/// Cells of a bar.
const BAR: u32 = 24;
/// Nodes at work that are shown below a bar.
const AT_WORK: usize = 8;

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| plain(cell)).collect()
}

/// Each `KataConfig` with its nodes and what is wrong.
pub(crate) fn table(fleet: &Fleet) -> String {
    if fleet.configs.is_empty() {
        return "there is no KataConfig\n".into();
    }
    let mut rows = vec![row(&["KATACONFIG", "READY", "NODES", "STATE", "MESSAGE"])];
    for (name, config) in &fleet.configs {
        let status = config.status.clone().unwrap_or_default();
        let (state, message) = state(&status);
        let nodes = &status.kata_nodes;
        let ready = nodes.ready_node_count.to_string();
        let all = nodes.node_count.to_string();
        rows.push(row(&[name, &ready, &all, state, message]));
    }
    let mut text = columns(&rows);
    if !fleet.kata_nodes.is_empty() {
        let names = [
            "NODE",
            "KATACONFIG",
            "PHASE",
            "STEP",
            "PERCENT",
            "VERSION",
            "ERROR",
        ];
        let mut rows = vec![row(&names)];
        rows.extend(
            fleet
                .kata_nodes
                .iter()
                .map(|(name, node)| node_row(name, node)),
        );
        text = format!("{text}\n{}", columns(&rows));
    }
    text
}

fn node_row(name: &str, node: &KataNode) -> Vec<String> {
    let status = node.status.clone().unwrap_or_default();
    let some = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    row(&[
        name,
        &node.spec.kata_config,
        &format!("{:?}", status.phase),
        &some(status.step),
        &some(status.percent.map(|percent| percent.to_string())),
        &some(status.version),
        &some(status.last_error),
    ])
}

/// The condition people want to know of first.
fn state(status: &KataConfigStatus) -> (&'static str, &str) {
    let kinds = ["Blocked", "Degraded", "Progressing", "Ready"];
    let found = kinds
        .into_iter()
        .find_map(|kind| Some((kind, holding(status, kind)?)));
    found.unwrap_or((
        "Waiting",
        "the operator has not answered, or no node is ready",
    ))
}

/// The statuses whole.
pub(crate) fn json(fleet: &Fleet) -> String {
    let config =
        |(name, config): (&String, &KataConfig)| json!({ "name": name, "status": config.status });
    let node = |(name, node): (&String, &KataNode)| json!({ "name": name, "kataConfig": node.spec.kata_config, "status": node.status });
    pretty(&json!({
        "kataConfigs": fleet.configs.iter().map(config).collect::<Vec<_>>(),
        "kataNodes": fleet.kata_nodes.iter().map(node).collect::<Vec<_>>(),
    }))
}

/// What the next steps do.
pub(crate) fn plan(fleet: &Fleet) -> String {
    let names = [
        "KATACONFIG",
        "NODE",
        "ACTION",
        "VERSION",
        "RESTARTS",
        "BLOCKED BY",
        "WAITS FOR",
    ];
    let mut rows = vec![row(&names)];
    let mut more = String::new();
    for (name, config) in &fleet.configs {
        let plan = config.status.clone().unwrap_or_default().plan;
        for step in &plan.steps {
            let action = match step.action {
                PlanAction::Install => "install",
                PlanAction::Upgrade => "upgrade",
                PlanAction::Uninstall => "uninstall",
            };
            let list = |list: &[String]| match list {
                [] => "-".to_owned(),
                list => list.join(", "),
            };
            rows.push(row(&[
                name,
                &step.node,
                action,
                step.version.as_deref().unwrap_or("-"),
                &list(&step.restarts),
                &list(&step.blocked_by),
                step.waiting_for.as_deref().unwrap_or("-"),
            ]));
        }
        let told = u32::try_from(plan.steps.len()).unwrap_or(u32::MAX);
        if plan.total > told {
            more += &format!("{name}: {} steps more\n", plan.total - told);
        }
    }
    match rows.len() {
        1 => "nothing is left to do\n".into(),
        _ => columns(&rows) + &more,
    }
}

/// The plans whole.
pub(crate) fn plan_json(fleet: &Fleet) -> String {
    let plan = |(name, config): (&String, &KataConfig)| {
        let status = config.status.clone().unwrap_or_default();
        json!({ "name": name, "plan": status.plan })
    };
    pretty(&json!({ "kataConfigs": fleet.configs.iter().map(plan).collect::<Vec<_>>() }))
}

/// A bar for each `KataConfig`, and its nodes at work.
fn bars(fleet: &Fleet) -> String {
    let mut text = String::new();
    for (name, config) in &fleet.configs {
        let status = config.status.clone().unwrap_or_default();
        let nodes = &status.kata_nodes;
        let (ready, all) = (nodes.ready_node_count, nodes.node_count);
        let full = ready.min(all) * BAR / all.max(1);
        let bar = "#".repeat(full as usize) + &".".repeat((BAR - full) as usize);
        let (state, message) = state(&status);
        text += &plain(&format!("{name} [{bar}] {ready}/{all} {state}: {message}"));
        text.push('\n');
        let work = nodes.installing.iter().chain(&nodes.uninstalling);
        for node in work.take(AT_WORK) {
            text += &plain(&format!("  {node} {}", work_of(fleet, node)));
            text.push('\n');
        }
    }
    text
}

fn work_of(fleet: &Fleet, node: &str) -> String {
    let known = fleet
        .kata_nodes
        .get(node)
        .and_then(|own| own.status.as_ref());
    let Some(status) = known else {
        return "by the Machine Config Operator".into();
    };
    let step = status.step.as_deref().unwrap_or("-");
    match status.percent {
        Some(percent) => format!("{percent:>3} % {step}"),
        None => step.to_owned(),
    }
}

/// As many columns as a line has, so that what is drawn anew is as many lines.
fn fit(text: &str, width: usize) -> String {
    let lines = text.lines();
    let lines = lines.map(|line| line.chars().take(width).collect::<String>() + "\n");
    lines.collect()
}

/// Shows the bars until nothing is left to do: drawn in place on a terminal,
/// one after another elsewhere.
pub(crate) async fn watch(client: &Client) -> Result<(), Error> {
    let terminal = std::io::stdout().is_terminal();
    let columns = std::env::var("COLUMNS")
        .ok()
        .and_then(|own| own.parse().ok());
    let width: usize = columns.unwrap_or(80);
    let mut fleet = Fleet::read(client).await?;
    let configs: Api<KataConfig> = Api::all(client.clone());
    let nodes: Api<KataNode> = Api::all(client.clone());
    let mut configs = watcher(configs, watcher::Config::default())
        .default_backoff()
        .boxed();
    let mut nodes = watcher(nodes, watcher::Config::default())
        .default_backoff()
        .boxed();
    let mut listed = Fleet::default();
    let mut drawn = String::new();
    loop {
        let text = match terminal {
            true => fit(&bars(&fleet), width),
            false => bars(&fleet),
        };
        if text != drawn {
            let up = drawn.lines().count();
            let back = match terminal && up > 0 {
                true => format!("\u{1b}[{up}A\u{1b}[J"),
                false => String::new(),
            };
            print(&format!("{back}{text}"))?;
            drawn = text;
        }
        if fleet.configs.values().all(settled) {
            return print(&format!("\n{}", table(&fleet)));
        }
        tokio::select! {
            news = configs.next() => {
                hear(&mut fleet.configs, &mut listed.configs, news.ok_or(Error::WatchEnded)?);
            }
            news = nodes.next() => {
                hear(&mut fleet.kata_nodes, &mut listed.kata_nodes, news.ok_or(Error::WatchEnded)?);
            }
        }
    }
}

/// Takes in what a watch tells; a list counts when it is whole.
fn hear<K: ResourceExt>(
    known: &mut BTreeMap<String, K>,
    listed: &mut BTreeMap<String, K>,
    news: Result<Event<K>, watcher::Error>,
) {
    match news {
        Ok(Event::Init) => listed.clear(),
        Ok(Event::InitApply(own)) => {
            listed.insert(own.name_any(), own);
        }
        Ok(Event::InitDone) => *known = std::mem::take(listed),
        Ok(Event::Apply(own)) => {
            known.insert(own.name_any(), own);
        }
        Ok(Event::Delete(own)) => {
            known.remove(&own.name_any());
        }
        // A watch that breaks is begun again by itself.
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_the_cluster_is_ready() {
        let mut config = KataConfig::default();
        let mut status = KataConfigStatus::default();
        (
            status.kata_nodes.ready_node_count,
            status.kata_nodes.node_count,
        ) = (1, 2);
        status.kata_nodes.installing = vec!["a\u{1b}".into()];
        config.status = Some(status);
        let mut fleet = Fleet::default();
        fleet.configs.insert("kata".into(), config);
        let text = bars(&fleet);
        assert!(
            text.starts_with("kata [############............] 1/2 "),
            "{text}"
        );
        assert!(text.contains("  a  by the Machine"), "{text:?}");
        assert!(
            fit(&text, 10)
                .lines()
                .all(|line| line.chars().count() <= 10)
        );
    }
}

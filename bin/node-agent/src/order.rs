//! What an order asks for: which work is next, and which handlers.

use bulkhead_installer::handler::{Handler, HandlerError, HandlerName};
use bulkhead_kataconfig::{
    Action, HandlerSpec, KataNode, KataNodeSpec, KataNodeStatus, NodePhase, parse_memory,
};

/// Most handlers of a machine, as the API has it.
const HANDLER_LIMIT: usize = 64;

/// What an agent does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Looks at the machine and changes nothing.
    Look,
    /// Tries an installation.
    Install,
    /// Proves again that the machine serves.
    Verify,
    /// Tries a removal.
    Uninstall,
}

/// What has to be done for a node on the machine `own`; `due` is whether it is
/// time to look again at what was found good. An order is tried once for each
/// generation, but one that was interrupted is not tried yet.
pub(crate) fn next(node: &KataNode, told: &KataNodeStatus, own: &str, due: bool) -> Option<Work> {
    if own.is_empty() || node.spec.machine_id != own {
        return None;
    }
    let same = told.observed_generation.is_some()
        && told.observed_generation == node.metadata.generation
        && told.machine_id == own;
    let phase = same.then_some(told.phase);
    match (node.spec.action, phase) {
        (Action::None, Some(NodePhase::Idle)) => due.then_some(Work::Look),
        (Action::None, _) => Some(Work::Look),
        (Action::Install, Some(NodePhase::Ready)) => due.then_some(Work::Verify),
        (Action::Install, Some(NodePhase::Failed))
        | (Action::Uninstall, Some(NodePhase::Removed | NodePhase::Failed)) => None,
        (Action::Install, _) => Some(Work::Install),
        (Action::Uninstall, _) => Some(Work::Uninstall),
    }
}

/// Why an order cannot be understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    /// A handler or one of its settings.
    #[error("the handler `{}` cannot be had", .name.escape_debug())]
    Handler {
        /// Its name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: HandlerError,
    },
    /// Its memory.
    #[error(
        "the handler `{}` cannot have the memory `{}`; write it as 512Mi or 2Gi",
        .name.escape_debug(), .memory.escape_debug()
    )]
    Memory {
        /// The handler.
        name: String,
        /// What was asked for.
        memory: String,
    },
    /// None at all.
    #[error("the order names no handler, or more than {HANDLER_LIMIT}")]
    Count,
}

/// The handlers an order asks for. `settings` are the node's own, for all of
/// them; what the order says goes before.
pub(crate) fn handlers(
    spec: &KataNodeSpec,
    settings: &[(String, String)],
) -> Result<Vec<Handler>, OrderError> {
    if spec.handlers.is_empty() || spec.handlers.len() > HANDLER_LIMIT {
        return Err(OrderError::Count);
    }
    let level = spec.log_level.as_deref().map(level);
    let level = level.map(|level| ("log_level".to_owned(), level.to_owned()));
    // The node's own go before what is the same on all.
    let settings: Vec<_> = level.into_iter().chain(settings.to_vec()).collect();
    spec.handlers
        .iter()
        .map(|wanted| handler(wanted, &settings))
        .collect()
}

/// What the runtime knows of a KataConfig's levels, two of which are of programs
/// that end then.
fn level(wanted: &str) -> &str {
    match wanted {
        "fatal" | "panic" => "error",
        other => other,
    }
}

fn handler(wanted: &HandlerSpec, settings: &[(String, String)]) -> Result<Handler, OrderError> {
    let failed = |source| OrderError::Handler {
        name: wanted.name.clone(),
        source,
    };
    let mut handler = Handler::new(HandlerName::try_from(wanted.name.clone()).map_err(failed)?);
    for (setting, value) in settings {
        handler.set(setting, value).map_err(failed)?;
    }
    if let Some(vcpus) = wanted.defaults.vcpus {
        handler.set("vcpus", &vcpus.to_string()).map_err(failed)?;
    }
    if let Some(memory) = &wanted.defaults.memory {
        let mib = parse_memory(memory).ok_or_else(|| OrderError::Memory {
            name: wanted.name.clone(),
            memory: memory.clone(),
        })?;
        handler
            .set("memory_mib", &mib.to_string())
            .map_err(failed)?;
    }
    for (setting, value) in &wanted.overrides {
        handler.set(setting, value).map_err(failed)?;
    }
    Ok(handler)
}

#[cfg(test)]
mod tests {
    use bulkhead_kataconfig::Machine;
    use proptest::prelude::*;

    use super::*;

    fn node(action: Action) -> KataNode {
        let mut node = KataNode::default();
        node.metadata.generation = Some(3);
        node.spec.action = action;
        node.spec.machine_id = "m".into();
        node
    }

    fn told(phase: NodePhase, generation: i64) -> KataNodeStatus {
        KataNodeStatus {
            phase,
            machine_id: "m".into(),
            observed_generation: Some(generation),
            ..KataNodeStatus::default()
        }
    }

    #[test]
    fn an_order_is_tried_once_whatever_became_of_it() {
        let node = node(Action::Install);
        for phase in [NodePhase::Ready, NodePhase::Failed] {
            assert_eq!(next(&node, &told(phase, 3), "m", false), None);
            let before = told(phase, 2);
            assert_eq!(next(&node, &before, "m", false), Some(Work::Install));
        }
        let ready = told(NodePhase::Ready, 3);
        assert_eq!(next(&node, &ready, "m", true), Some(Work::Verify));
        let failed = told(NodePhase::Failed, 3);
        assert_eq!(next(&node, &failed, "m", true), None);
    }

    #[test]
    fn what_was_interrupted_is_tried_again() {
        let (install, uninstall) = (node(Action::Install), node(Action::Uninstall));
        let installing = told(NodePhase::Installing, 3);
        assert_eq!(next(&install, &installing, "m", false), Some(Work::Install));
        let leaving = told(NodePhase::Uninstalling, 3);
        assert_eq!(
            next(&uninstall, &leaving, "m", false),
            Some(Work::Uninstall)
        );
    }

    #[test]
    fn what_another_machine_told_is_no_answer_of_this_one() {
        let mut other = told(NodePhase::Ready, 3);
        other.machine_id = "x".into();
        assert_eq!(
            next(&node(Action::Install), &other, "m", false),
            Some(Work::Install)
        );
    }

    proptest! {
        #[test]
        fn nothing_is_done_for_another_machine(
            own in "[a-f0-9]{0,4}", meant in "[a-f0-9]{0,4}", action in 0..3, due: bool,
        ) {
            let all = [Action::None, Action::Install, Action::Uninstall];
            let mut node = node(all[usize::try_from(action).unwrap()]);
            node.spec.machine_id = meant.clone();
            let work = next(&node, &KataNodeStatus::default(), &own, due);
            prop_assert_eq!(work.is_some(), own == meant && !own.is_empty());
        }
    }

    #[test]
    fn a_handler_has_the_nodes_settings_and_before_them_its_own() {
        let mut wanted = HandlerSpec {
            name: "kata-big".into(),
            defaults: Machine {
                vcpus: Some(2),
                memory: Some("2Gi".into()),
            },
            ..HandlerSpec::default()
        };
        let own = [("vcpus", "1"), ("accelerator", "tcg")];
        let own = own.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut same = Handler::new(HandlerName::try_from("kata-big".to_owned()).unwrap());
        for (key, value) in [
            ("accelerator", "tcg"),
            ("vcpus", "2"),
            ("memory_mib", "2048"),
        ] {
            same.set(key, value).unwrap();
        }
        assert_eq!(handler(&wanted, &own).unwrap(), same);
        wanted.defaults.memory = Some("lots".into());
        assert!(
            handler(&wanted, &own)
                .unwrap_err()
                .to_string()
                .contains("lots")
        );
    }

    #[test]
    fn the_level_of_the_log_is_each_handlers() {
        let text = |wanted: &str| {
            let spec = KataNodeSpec {
                handlers: vec![HandlerSpec {
                    name: "kata".into(),
                    ..HandlerSpec::default()
                }],
                log_level: Some(wanted.into()),
                ..KataNodeSpec::default()
            };
            handlers(&spec, &[])
        };
        let with = |level: &str| {
            let mut same = Handler::new(HandlerName::try_from("kata".to_owned()).unwrap());
            same.set("log_level", level).unwrap();
            vec![same]
        };
        assert_eq!(text("debug").unwrap(), with("debug"));
        assert_eq!(text("panic").unwrap(), with("error"));
        assert!(text("loud").is_err());
    }

    #[test]
    fn hostile_handlers_are_refused_by_name() {
        let mut spec = KataNodeSpec::default();
        assert!(matches!(handlers(&spec, &[]), Err(OrderError::Count)));
        for name in ["../x", "runc", "a\"]\n", ""] {
            spec.handlers = vec![HandlerSpec {
                name: name.into(),
                ..HandlerSpec::default()
            }];
            assert!(handlers(&spec, &[]).is_err(), "{name}");
        }
        let mut wanted = HandlerSpec {
            name: "kata".into(),
            ..HandlerSpec::default()
        };
        wanted.overrides.insert("guests".into(), "/etc".into());
        spec.handlers = vec![wanted];
        assert!(handlers(&spec, &[]).is_err());
    }
}

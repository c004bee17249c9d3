//! `bulkhead rm`.

use std::process::ExitCode;

use super::lifecycle::kill_one;
use crate::cli::RmOptions;
use crate::report::{CommandError, Outcome};
use crate::state::record::NetworkMode;
use crate::state::{ContainerDir, Root, StateError, events};

/// Removes containers.
pub(super) fn run(root: &Root, options: &RmOptions) -> Outcome {
    root.collect()?;
    let mut failed = None;
    let mut targets = Vec::new();
    for name in &options.names {
        match root.find(name) {
            Ok(dir) => targets.push((name.clone(), dir)),
            // A damaged record cannot be found by name; by its whole id it
            // can still be removed.
            Err(error) => match (damaged(root, name), options.force) {
                (Some(dir), true) => targets.push((name.clone(), dir)),
                (_, true) if matches!(error, StateError::NoContainer(_)) => {}
                _ => failed = Some(CommandError::from(error).report()),
            },
        }
    }
    if options.all {
        for dir in root.list()? {
            let live = dir.state().is_ok_and(|state| state.is_live());
            if options.force || !live {
                let name = dir.record().map(|record| record.name).unwrap_or_default();
                targets.push((name, dir));
            }
        }
    }
    for (name, dir) in targets {
        match remove(root, &dir, options.force) {
            Ok(()) => println!("{name}"),
            Err(error) => failed = Some(error.report()),
        }
    }
    Ok(failed.unwrap_or(ExitCode::SUCCESS))
}

fn damaged(root: &Root, id: &str) -> Option<ContainerDir> {
    let dirs = root.list().ok()?;
    dirs.into_iter()
        .find(|dir| dir.path().file_name().is_some_and(|name| name == id))
}

fn remove(root: &Root, dir: &ContainerDir, force: bool) -> Result<(), CommandError> {
    let record = dir.record();
    match (dir.state(), &record) {
        (Ok(state), Ok(record)) if state.is_live() => {
            if !force {
                return Err(StateError::Running(record.name.clone()).into());
            }
            kill_one(dir, record)?;
        }
        (Err(error), _) if !force => return Err(error.into()),
        (_, Err(error)) if !force => return Err(CommandError::new(crate::report::chain(error))),
        _ => {}
    }
    // An automatic removal may have been faster.
    root.remove(dir)?;
    if let Ok(record) = record {
        if let NetworkMode::Namespace(path) = &record.network {
            // A killed supervisor could not; a namespace that is gone needs nothing.
            let _ = bulkhead_network::release(path, &record.id);
        }
        events::emit(root.path(), &record, "remove", None);
    }
    Ok(())
}

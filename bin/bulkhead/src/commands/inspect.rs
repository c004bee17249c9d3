//! `bulkhead inspect`.

use std::process::ExitCode;

use crate::cli::Names;
use crate::report::Outcome;
use crate::state::Root;

/// Prints record and state.
pub(super) fn run(root: &Root, names: &Names) -> Outcome {
    let mut all = Vec::new();
    for name in &names.names {
        let dir = root.find(name)?;
        let record = dir.record()?;
        let state = dir.state()?;
        all.push(serde_json::json!({ "record": record, "state": state, "directory": dir.path() }));
    }
    println!("{}", serde_json::to_string_pretty(&all)?);
    Ok(ExitCode::SUCCESS)
}

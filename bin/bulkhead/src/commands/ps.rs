//! `bulkhead ps`.

use std::process::ExitCode;

use crate::cli::{Format, PsOptions};
use crate::report::Outcome;
use crate::state::record::age;
use crate::state::{Record, Root, State, id};
use crate::style;

/// Lists containers.
pub(super) fn run(root: &Root, options: &PsOptions) -> Outcome {
    if let Some(pod) = &options.pod {
        return super::pods::containers(pod, options);
    }
    root.collect()?;
    let mut found = Vec::new();
    for dir in root.list()? {
        match (dir.record(), dir.state()) {
            (Ok(record), Ok(state)) => {
                if !state.is_live() && record.auto_remove {
                    // Its supervisor was killed before it could.
                    let _ = root.remove(&dir);
                } else if options.all || state.is_live() {
                    found.push((record, state));
                }
            }
            (Err(error), _) | (_, Err(error)) if dir.path().exists() => {
                eprintln!(
                    "{} {}",
                    style::warning("warning:"),
                    crate::report::chain(&error)
                );
            }
            // Removed while we looked.
            _ => {}
        }
    }
    found.sort_by_key(|(record, _)| std::cmp::Reverse(record.created));
    match options.format.format {
        _ if options.quiet => found
            .iter()
            .for_each(|(record, _)| println!("{}", id::short(&record.id))),
        Format::Json => println!("{}", serde_json::to_string_pretty(&json(&found))?),
        Format::Table => print!("{}", table(&found)),
    }
    Ok(ExitCode::SUCCESS)
}

fn json(found: &[(Record, State)]) -> Vec<serde_json::Value> {
    let line = |(record, state): &(Record, State)| {
        serde_json::json!({
            "id": record.id,
            "name": record.name,
            "image": record.rootfs.display(),
            "command": command(record),
            "created": super::time::rfc3339_millis(record.created),
            "status": state.status.word(),
            "exit_code": state.exit_code,
            "reason": state.reason,
            "ports": record.ports,
            "guest_kernel": state.guest_kernel,
            "accelerator": state.accelerator,
        })
    };
    found.iter().map(line).collect()
}

fn command(record: &Record) -> String {
    let args = record
        .spec
        .process()
        .as_ref()
        .and_then(|process| process.args().clone());
    args.unwrap_or_default().join(" ")
}

fn table(found: &[(Record, State)]) -> String {
    let head = [
        "CONTAINER ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (record, state) in found {
        let command: String = command(record)
            .chars()
            .filter(|c| !c.is_control())
            .take(30)
            .collect();
        rows.push(vec![
            id::short(&record.id).to_owned(),
            record.rootfs.display(),
            command,
            format!("{} ago", age(record.created)),
            state.phrase(),
            record.ports.join(", "),
            record.name.clone(),
        ]);
    }
    style::table(&rows)
}

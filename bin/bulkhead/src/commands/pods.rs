//! `bulkhead pods`.

use std::path::Path;
use std::process::ExitCode;

use bulkhead_status::Pod;

use crate::cli::{Format, PodsOptions};
use crate::report::{CommandError, Outcome};
use crate::style;

/// Lists the pods of this host.
pub(super) fn run(options: &PodsOptions) -> Outcome {
    let root = Path::new(bulkhead_status::ROOT);
    let pods = bulkhead_status::all(root).map_err(|error| {
        CommandError::new(format!(
            "the pods in `{}` cannot be listed: {error}; they are root's",
            root.display()
        ))
    })?;
    if options.format.format == Format::Json {
        println!("{}", serde_json::to_string_pretty(&pods)?);
        return Ok(ExitCode::SUCCESS);
    }
    let rows = match options.timings {
        true => timings(&pods),
        false => table(&pods),
    };
    print!("{}", style::table(&rows));
    Ok(ExitCode::SUCCESS)
}

/// Of an id as much as people need.
const ID_SHOWN: usize = 12;

fn name(pod: &Pod) -> String {
    match &pod.kubernetes {
        Some(own) => format!("{}/{}", own.namespace, own.name),
        None => pod.namespace.clone(),
    }
}

fn id(pod: &Pod) -> String {
    pod.id.chars().take(ID_SHOWN).collect()
}

fn table(pods: &[Pod]) -> Vec<Vec<String>> {
    let head = [
        "POD",
        "ID",
        "STATE",
        "CONTAINERS",
        "VCPUS",
        "MEMORY",
        "MONITOR",
    ];
    let row = |pod: &Pod| {
        let running = pod.containers.iter().filter(|own| own.state == "running");
        vec![
            name(pod),
            id(pod),
            pod.state.as_str().to_owned(),
            format!("{}/{}", running.count(), pod.containers.len()),
            pod.vcpus.to_string(),
            format!("{} MiB", pod.memory >> 20),
            pod.monitor_pid
                .map_or("-".to_owned(), |pid| pid.to_string()),
        ]
    };
    let head = head.map(str::to_owned).to_vec();
    std::iter::once(head).chain(pods.iter().map(row)).collect()
}

fn timings(pods: &[Pod]) -> Vec<Vec<String>> {
    let mut rows = vec![["POD", "ID", "PHASE", "TOOK"].map(str::to_owned).to_vec()];
    for pod in pods {
        for (phase, took) in &pod.phases {
            let took = format!("{:.1} ms", took * 1000.0);
            rows.push(vec![name(pod), id(pod), phase.clone(), took]);
        }
    }
    rows
}

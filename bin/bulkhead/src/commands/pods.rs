//! `bulkhead pods`.

use std::process::ExitCode;

use bulkhead_status::{Container, Pod, Usage};

use super::target;
use crate::cli::{Format, PodsOptions, PsOptions};
use crate::report::Outcome;
use crate::style;

/// Lists the pods of this host.
pub(super) fn run(options: &PodsOptions) -> Outcome {
    let all = target::pods()?;
    let pods: Vec<Pod> = match &options.pod {
        Some(name) => vec![bulkhead_status::pod(&all, name)?.pod.clone()],
        None => all.into_iter().map(|own| own.pod).collect(),
    };
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

/// Lists the containers of a pod.
pub(super) fn containers(name: &str, options: &PsOptions) -> Outcome {
    let all = target::pods()?;
    let pod = &bulkhead_status::pod(&all, name)?.pod;
    let shown = |own: &&Container| options.all || own.state != "stopped";
    let list: Vec<_> = pod.containers.iter().filter(shown).collect();
    match options.format.format {
        _ if options.quiet => list.iter().for_each(|own| println!("{}", own.id)),
        Format::Json => println!("{}", serde_json::to_string_pretty(&list)?),
        Format::Table => print!("{}", style::table(&container_rows(&list))),
    }
    Ok(ExitCode::SUCCESS)
}

fn container_rows(list: &[&Container]) -> Vec<Vec<String>> {
    let head = ["CONTAINER ID", "NAME", "STATE", "PIDS", "CPU", "MEMORY"];
    let row = |own: &&Container| {
        let usage = |text: &dyn Fn(&Usage) -> String| own.usage.as_ref().map(text);
        let state = match own.exit_code {
            Some(code) => format!("{} ({code})", own.state),
            None => own.state.clone(),
        };
        let none = || "-".to_owned();
        vec![
            own.id.chars().take(ID_SHOWN).collect(),
            own.name.clone().unwrap_or_else(none),
            state,
            usage(&|own| own.pids.to_string()).unwrap_or_else(none),
            usage(&|own| format!("{:.1} s", own.cpu_seconds)).unwrap_or_else(none),
            usage(&|own| format!("{} MiB", own.memory >> 20)).unwrap_or_else(none),
        ]
    };
    let head = head.map(str::to_owned).to_vec();
    std::iter::once(head).chain(list.iter().map(row)).collect()
}

//! `bulkhead version`.

use std::process::ExitCode;

use bulkhead_guest::{Cache, Preference};
use bulkhead_provision::monitor;

use crate::cli::{Format, FormatOption};
use crate::report::Outcome;

/// Prints the versions of everything involved.
pub(super) fn run(format: &FormatOption) -> Outcome {
    let (major, minor) = bulkhead_protocol::VERSION;
    let qemu = monitor::ask().map(|(_, version)| version.to_string());
    let guest = Cache::find_default(Preference::Auto);
    let host = rustix::system::uname();
    let facts = [
        ("bulkhead", env!("CARGO_PKG_VERSION").to_owned()),
        ("agent protocol", format!("{major}.{minor}")),
        ("qemu", qemu.unwrap_or_else(|error| error.to_string())),
        (
            "guest kernel",
            guest.map_or_else(|e| e.to_string(), |g| g.manifest.source),
        ),
        ("host kernel", host.release().to_string_lossy().into_owned()),
    ];
    if format.format == Format::Json {
        let map: std::collections::BTreeMap<_, _> = facts.into_iter().collect();
        println!("{}", serde_json::to_string_pretty(&map)?);
    } else {
        let rows: Vec<Vec<String>> = facts
            .into_iter()
            .map(|(name, value)| vec![name.to_owned(), value])
            .collect();
        print!("{}", crate::style::table(&rows));
    }
    Ok(ExitCode::SUCCESS)
}

//! `bulkhead config`.

use std::process::ExitCode;

use bulkhead_config::{Explained, Loaded};

use crate::cli::{ConfigCommand, ConfigOptions, Format};
use crate::report::Outcome;
use crate::style;

/// Runs a configuration command.
pub(super) fn run(command: &ConfigCommand) -> Outcome {
    match command {
        ConfigCommand::Check(options) => check(options),
        ConfigCommand::Explain(options) => explain(options),
    }
}

fn load(options: &ConfigOptions) -> Result<Loaded, bulkhead_config::ConfigError> {
    Loaded::read(options.file.as_deref())
}

/// A wrong one is the error of the command.
fn check(options: &ConfigOptions) -> Outcome {
    let overhead = load(options)?.config.overhead_mib();
    match options.format.format {
        Format::Json => {
            let answer = serde_json::json!({"valid": true, "overhead_mib": overhead});
            println!("{}", serde_json::to_string_pretty(&answer)?);
        }
        Format::Table => {
            println!("the configuration is right");
            println!("a RuntimeClass of it should declare an overhead of {overhead}Mi memory");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(options: &ConfigOptions) -> Outcome {
    let explained = load(options)?.explain();
    if options.format.format == Format::Json {
        println!("{}", serde_json::to_string_pretty(&explained)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![
        ["SETTING", "VALUE", "FROM", "MEANING"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(explained.iter().map(row));
    print!("{}", style::table(&rows));
    Ok(ExitCode::SUCCESS)
}

fn row(own: &Explained) -> Vec<String> {
    let value = own.value.as_ref().map(ToString::to_string);
    let from = own.from.as_ref().map(|path| path.display().to_string());
    vec![
        own.name.to_owned(),
        value.unwrap_or_else(|| "-".to_owned()),
        from.unwrap_or_else(|| "default".to_owned()),
        format!("{} It is {}.", own.what, own.range),
    ]
}

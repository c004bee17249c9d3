//! `bulkhead guest`.

use std::process::ExitCode;

use bulkhead_guest::{BuildOptions, Cache, KernelKind, Phase, Progress};

use crate::cli::{Format, GuestCommand, KernelChoice};
use crate::report::{CommandError, Outcome};
use crate::style;

struct Printer {
    phase: Option<Phase>,
}

impl Progress for Printer {
    fn update(&mut self, phase: Phase, _: u64, _: u64) {
        if self.phase.replace(phase) != Some(phase) {
            eprintln!("{phase}");
        }
    }
}

/// Runs a guest command.
pub(super) fn run(command: GuestCommand) -> Outcome {
    let cache = Cache::open(&Cache::default_root()?)?;
    match command {
        GuestCommand::Build { kernel, agent } => {
            let agent = match agent {
                Some(path) => path,
                None => beside_this_program()?,
            };
            let kind = match kernel {
                KernelChoice::Distro => KernelKind::Distro,
                KernelChoice::Auto | KernelChoice::Tuned => KernelKind::Tuned,
            };
            let options = BuildOptions { kind, agent };
            let guest = bulkhead_guest::build(&cache, &options, &mut Printer { phase: None })?;
            println!("{}", guest.dir().display());
        }
        GuestCommand::Ls(format) => list(&cache, format.format)?,
        GuestCommand::Verify => {
            for guest in cache.list()? {
                guest.verify()?;
                println!("{}: as built", guest.dir().display());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn beside_this_program() -> Result<std::path::PathBuf, CommandError> {
    let own = std::env::current_exe()?;
    let path = own.with_file_name("bulkhead-agent");
    if path.exists() {
        return Ok(path);
    }
    Err(CommandError::new(format!(
        "there is no agent at `{}`; name one with --agent, or use `cargo xtask guest`",
        path.display()
    )))
}

fn list(cache: &Cache, format: Format) -> Result<(), CommandError> {
    let guests = cache.list()?;
    if format == Format::Json {
        let lines: Vec<_> = guests
            .iter()
            .map(
                |guest| serde_json::json!({ "directory": guest.dir(), "manifest": guest.manifest }),
            )
            .collect();
        println!("{}", serde_json::to_string_pretty(&lines)?);
        return Ok(());
    }
    let mut rows = vec![
        ["KERNEL", "SOURCE", "SIZE", "DIRECTORY"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for guest in guests {
        rows.push(vec![
            guest.manifest.kind.word().to_owned(),
            guest.manifest.source.clone(),
            style::bytes(guest.manifest.kernel.size + guest.manifest.initramfs.size),
            guest.dir().display().to_string(),
        ]);
    }
    print!("{}", style::table(&rows));
    Ok(())
}

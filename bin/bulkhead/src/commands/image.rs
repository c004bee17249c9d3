//! `bulkhead image`, and how `run` gets its image.

use std::io::IsTerminal;
use std::process::ExitCode;

use bulkhead_image::{Image, ImageRef, Progress, PullOptions, Store};

use crate::cli::{Format, ImageCommand, RegistryOptions};
use crate::report::{CommandError, Outcome};
use crate::state::Root;
use crate::style;

/// When an image is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    Missing,
    Always,
    Never,
}

struct Printer;

impl Progress for Printer {
    fn layer(&mut self, number: usize, count: usize) {
        // A line in a log file helps nobody; on a terminal it says what takes
        // so long.
        if std::io::stderr().is_terminal() {
            eprintln!("converting layer {number} of {count}");
        }
    }
}

/// Gets an image ready to run. A local source is looked at every time: its
/// index and configuration are small, and layers in the store are not read.
pub(super) fn obtain(
    root: &Root,
    name: &str,
    policy: Policy,
    registry: RegistryOptions,
) -> Result<Image, CommandError> {
    let store = Store::open(&root.store())?;
    let reference: ImageRef = name.parse()?;
    let stored = || {
        store
            .get(&reference.to_string())
            .or_else(|_| store.get(name))
    };
    let pull = || {
        let options = PullOptions {
            insecure: !registry.tls_verify,
            ..PullOptions::default()
        };
        store.pull(&reference, options, &mut Printer)
    };
    match (&reference, policy) {
        (_, Policy::Never) => Ok(stored()?),
        (ImageRef::Registry(_), Policy::Missing) => match stored() {
            Ok(image) => Ok(image),
            Err(_) => Ok(pull()?),
        },
        _ => Ok(pull()?),
    }
}

/// Runs an image command.
pub(super) fn run(root: &Root, command: ImageCommand) -> Outcome {
    let store = Store::open(&root.store())?;
    match command {
        ImageCommand::Pull { images, registry } => {
            for name in images {
                println!("{}", obtain(root, &name, Policy::Always, registry)?.id);
            }
        }
        ImageCommand::Ls(format) => list(&store, format.format)?,
        ImageCommand::Rm { images } => {
            for name in images {
                println!("{}", store.remove(&name)?.id);
            }
        }
        ImageCommand::Prune => println!("freed {}", style::bytes(store.prune()?)),
    }
    Ok(ExitCode::SUCCESS)
}

fn list(store: &Store, format: Format) -> Result<(), CommandError> {
    let images = store.list()?;
    if format == Format::Json {
        let lines: Vec<_> = images
            .iter()
            .map(|image| {
                serde_json::json!({
                    "id": image.id,
                    "names": image.names,
                    "layers": image.layers,
                    "size": image.size,
                    "created": image.config.created(),
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&lines)?);
        return Ok(());
    }
    let mut rows = vec![["NAME", "ID", "LAYERS", "SIZE"].map(str::to_owned).to_vec()];
    for image in images {
        let id: String = image
            .id
            .trim_start_matches("sha256:")
            .chars()
            .take(12)
            .collect();
        for name in &image.names {
            rows.push(vec![
                name.clone(),
                id.clone(),
                image.layers.len().to_string(),
                style::bytes(image.size),
            ]);
        }
    }
    print!("{}", style::table(&rows));
    Ok(())
}

//! `bulkhead events`.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::process::ExitCode;
use std::time::UNIX_EPOCH;

use rustix::fs::inotify;

use super::time::{parse_since, rfc3339_millis};
use crate::cli::{EventsOptions, Format};
use crate::report::{CommandError, Outcome};
use crate::state::events::{Event, path};
use crate::state::{Root, id};

/// Prints what happened.
pub(super) fn run(root: &Root, options: &EventsOptions) -> Outcome {
    let since = options
        .since
        .as_deref()
        .map(parse_since)
        .transpose()
        .map_err(CommandError::new)?;
    let since = since.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let since = since.map_or(0, |span| span.as_millis() as u64);
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(
        &watch,
        root.path(),
        inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE,
    )?;
    let mut position = 0;
    loop {
        if let Ok(mut file) = std::fs::File::open(path(root.path())) {
            if file.metadata()?.len() < position {
                position = 0;
            }
            file.seek(SeekFrom::Start(position))?;
            for line in BufReader::new((&mut file).take(64 << 20))
                .lines()
                .map_while(Result::ok)
            {
                position += line.len() as u64 + 1;
                if let Ok(event) = serde_json::from_str::<Event>(&line)
                    && event.time >= since
                {
                    print(&event, &line, options.format.format);
                }
            }
        }
        if !options.follow {
            return Ok(ExitCode::SUCCESS);
        }
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        inotify::Reader::new(&watch, &mut buffer).next()?;
    }
}

fn print(event: &Event, line: &str, format: Format) {
    if format == Format::Json {
        println!("{line}");
        return;
    }
    let code = event
        .exit_code
        .map(|code| format!(" exit code {code}"))
        .unwrap_or_default();
    println!(
        "{} {} {} {}{code}",
        rfc3339_millis(event.time),
        event.action,
        id::short(&event.id),
        event.name
    );
}

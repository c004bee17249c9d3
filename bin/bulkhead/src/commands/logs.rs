//! `bulkhead logs`.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::SystemTime;

use rustix::fs::inotify;

use super::time::parse_since;
use crate::cli::LogsOptions;
use crate::report::{CommandError, Outcome};
use crate::state::{ContainerDir, Root};

/// Prints a container's output.
pub(super) fn run(root: &Root, options: &LogsOptions) -> Outcome {
    let dir = root.find(&options.name.name)?;
    let since = options
        .since
        .as_deref()
        .map(parse_since)
        .transpose()
        .map_err(CommandError::new)?;
    let mut printer = Printer {
        since,
        timestamps: options.timestamps,
    };
    let mut text = std::fs::read(dir.file("log.old")).unwrap_or_default();
    let current = std::fs::read(dir.file("log")).unwrap_or_default();
    // Whole lines only: the rest of one that is being written comes with
    // what follows.
    let read = current
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    text.extend_from_slice(&current[..read]);
    let mut lines: Vec<&[u8]> = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .collect();
    let keep = options.tail.unwrap_or(lines.len()).min(lines.len());
    for line in lines.split_off(lines.len() - keep) {
        printer.print(line)?;
    }
    if options.follow {
        follow(&dir, read as u64, &mut printer)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what is added, woken by inotify(7), until the container has ended.
fn follow(
    dir: &ContainerDir,
    mut position: u64,
    printer: &mut Printer,
) -> Result<(), CommandError> {
    use std::io::{Read, Seek, SeekFrom};
    let watch: OwnedFd = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    let flags = inotify::WatchFlags::MODIFY
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::DELETE_SELF;
    inotify::add_watch(&watch, dir.path(), flags)?;
    loop {
        let live = dir.state().is_ok_and(|state| state.is_live());
        if let Ok(mut file) = std::fs::File::open(dir.file("log")) {
            if file.metadata()?.len() < position {
                position = 0;
            }
            file.seek(SeekFrom::Start(position))?;
            let mut new = Vec::new();
            file.read_to_end(&mut new)?;
            let whole = new
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            position += whole as u64;
            for line in new[..whole]
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
            {
                printer.print(line)?;
            }
        }
        if !live {
            return Ok(());
        }
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        inotify::Reader::new(&watch, &mut buffer).next()?;
    }
}

struct Printer {
    since: Option<SystemTime>,
    timestamps: bool,
}

impl Printer {
    /// Prints one line of the CRI's format.
    fn print(&mut self, line: &[u8]) -> Result<(), CommandError> {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let (Some(time), Some(stream), Some(tag), Some(text)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Ok(());
        };
        let time = String::from_utf8_lossy(time);
        if let Some(since) = self.since
            && humantime::parse_rfc3339_weak(&time).is_ok_and(|time| time < since)
        {
            return Ok(());
        }
        let mut out: Vec<u8> = Vec::with_capacity(text.len() + 40);
        if self.timestamps {
            out.extend_from_slice(time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(text);
        if tag != b"P" {
            out.push(b'\n');
        }
        if stream == b"stderr" {
            std::io::stderr().write_all(&out)?;
        } else {
            std::io::stdout().write_all(&out)?;
        }
        Ok(())
    }
}

//! `bulkhead logs`.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use bulkhead_status::{Container, Found};
use rustix::fs::inotify;

use super::target::{Target, target};
use super::time::parse_since;
use crate::cli::LogsOptions;
use crate::report::{CommandError, Outcome};
use crate::state::Root;

/// Where a container's output is kept.
struct Kept {
    dir: PathBuf,
    /// Names in the directory, the older first.
    older: Option<PathBuf>,
    newest: PathBuf,
}

/// Prints a container's output.
pub(super) fn run(root: &Root, options: &LogsOptions) -> Outcome {
    match target(root, &options.name)? {
        Target::Own(dir) => {
            let kept = Kept {
                dir: dir.path().to_owned(),
                older: Some(dir.file("log.old")),
                newest: dir.file("log"),
            };
            let live = || dir.state().is_ok_and(|state| state.is_live());
            print(&kept, options, &live)
        }
        Target::Pod(found) => {
            let container = found.any_container()?;
            let kept = kept_of_pod(&found, &container)?;
            let socket = found.dir.join(bulkhead_status::SOCKET);
            let live = || {
                let pod = bulkhead_status::ask(&socket);
                let mut own = pod.into_iter().flat_map(|pod| pod.containers);
                own.any(|own| own.id == container.id && own.state != "stopped")
            };
            print(&kept, options, &live)
        }
    }
}

/// Where the container manager keeps it: CRI-O says so of each container, the
/// kubelet has containerd keep it in `NAME/ATTEMPT.log` below the pod's
/// directory.
fn kept_of_pod(found: &Found, container: &Container) -> Result<Kept, CommandError> {
    let newest = container.log.clone().or_else(|| {
        let dir = found.pod.logs.as_ref()?;
        let name = container.name.as_ref()?;
        // Others chose it.
        bulkhead_protocol::name::check(name).ok()?;
        newest_attempt(&dir.join(name))
    });
    let newest = newest.filter(|path| path.is_file()).ok_or_else(|| {
        CommandError::new(format!(
            "where the output of the container `{}` is kept is not known: its container manager \
             has it; see `crictl logs` or `ctr`",
            container.id
        ))
    })?;
    let dir = newest.parent().map(Path::to_owned).unwrap_or_default();
    Ok(Kept {
        dir,
        older: None,
        newest,
    })
}

/// The kubelet counts restarts.
fn newest_attempt(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    let numbers = entries.filter_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.strip_suffix(".log")?.parse::<u64>().ok()
    });
    Some(dir.join(format!("{}.log", numbers.max()?)))
}

fn print(kept: &Kept, options: &LogsOptions, live: &dyn Fn() -> bool) -> Outcome {
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
    let older = kept.older.as_ref();
    let mut text = older.and_then(|path| std::fs::read(path).ok());
    let text = text.get_or_insert_default();
    let current = std::fs::read(&kept.newest).unwrap_or_default();
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
        follow(kept, read as u64, &mut printer, live)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what is added, woken by inotify(7), until the container has ended.
fn follow(
    kept: &Kept,
    mut position: u64,
    printer: &mut Printer,
    is_live: &dyn Fn() -> bool,
) -> Result<(), CommandError> {
    use std::io::{Read, Seek, SeekFrom};
    let watch: OwnedFd = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    // A container manager closes the log of a container that has ended.
    let flags = inotify::WatchFlags::MODIFY
        | inotify::WatchFlags::CLOSE_WRITE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::DELETE_SELF;
    inotify::add_watch(&watch, &kept.dir, flags)?;
    loop {
        let live = is_live();
        if let Ok(mut file) = std::fs::File::open(&kept.newest) {
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

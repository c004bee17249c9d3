//! Prints what inotify(7) tells of a directory: `watch DIRECTORY`. Each event is
//! one line, `KIND NAME`; the first line is `watching`.

use std::io::Write;
use std::mem::MaybeUninit;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

const KINDS: [(ReadFlags, &str); 5] = [
    (ReadFlags::CREATE, "create"),
    (ReadFlags::DELETE, "delete"),
    (ReadFlags::MOVED_TO, "moved-to"),
    (ReadFlags::MOVED_FROM, "moved-from"),
    (ReadFlags::ATTRIB, "attrib"),
];

fn main() -> std::io::Result<()> {
    let path = std::env::args_os().nth(1).unwrap_or_else(|| ".".into());
    let fd = inotify::init(CreateFlags::CLOEXEC)?;
    let wanted = WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::ATTRIB;
    inotify::add_watch(&fd, path, wanted)?;
    let mut out = std::io::stdout();
    writeln!(out, "watching")?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(fd, &mut buffer);
    loop {
        let event = reader.next()?;
        let name = event.file_name().map(|name| name.to_string_lossy());
        for (kind, word) in KINDS {
            if event.events().contains(kind) {
                writeln!(out, "{word} {}", name.as_deref().unwrap_or("."))?;
            }
        }
    }
}

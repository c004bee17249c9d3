//! The container's output on disk, in the CRI's log format: time, stream,
//! `P` for a piece of a line or `F` for its end, text.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::commands::time::rfc3339;

/// The file is renamed to `log.old` at this size, bytes: a chatty container
/// holds at most twice this.
const ROTATE_AT: u64 = 64 << 20;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Stdout,
    Stderr,
}

impl Source {
    fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// An open log.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Log {
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        Ok(Self {
            path: path.to_owned(),
            size: file.metadata()?.len(),
            file,
        })
    }

    /// Adds bytes as they came. One write for the whole chunk.
    pub(crate) fn write(&mut self, source: Source, bytes: &[u8]) -> std::io::Result<()> {
        let time = rfc3339(std::time::SystemTime::now());
        let mut out = Vec::with_capacity(bytes.len() + 64);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (tag, text) = match piece.strip_suffix(b"\n") {
                Some(text) => ('F', text),
                None => ('P', piece),
            };
            let _ = write!(out, "{time} {} {tag} ", source.word());
            out.extend_from_slice(text);
            out.push(b'\n');
        }
        if self.size + out.len() as u64 > ROTATE_AT {
            std::fs::rename(&self.path, self.path.with_extension("old"))?;
            *self = Self::open(&self.path)?;
        }
        self.size += out.len() as u64;
        self.file.write_all(&out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_pieces_are_told_apart() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("log");
        let mut log = Log::open(&path).unwrap();
        log.write(Source::Stdout, b"one\ntw").unwrap();
        log.write(Source::Stderr, b"err\n").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let tails: Vec<&str> = text.lines().map(|l| l.split_once(' ').unwrap().1).collect();
        assert_eq!(tails, ["stdout F one", "stdout P tw", "stderr F err"]);
    }

    #[test]
    fn the_log_cannot_fill_the_disk() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("log");
        let mut log = Log::open(&path).unwrap();
        log.size = ROTATE_AT;
        log.write(Source::Stdout, b"after\n").unwrap();
        assert!(temp.path().join("log.old").exists());
        assert!(std::fs::metadata(&path).unwrap().len() < 100);
    }
}

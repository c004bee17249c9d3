//! What happened to containers, one JSON line each.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::now;

/// The file is renamed to `.old` at this size, bytes.
const ROTATE_AT: u64 = 4 << 20;

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Event {
    /// Milliseconds since the epoch.
    pub(crate) time: u64,
    /// "create", "start", "die", "remove", "exec", "kill", "pause", "unpause", "oom".
    pub(crate) action: String,
    pub(crate) id: String,
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

/// Where events are.
pub(crate) fn path(root: &Path) -> PathBuf {
    root.join("events.jsonl")
}

/// Adds an event. Losing one must never fail the thing it tells of, so there
/// is no error to handle.
pub(crate) fn emit(
    root: &Path,
    record: &super::Record,
    action: &str,
    state: Option<&super::State>,
) {
    let event = Event {
        time: now(),
        action: action.to_owned(),
        id: record.id.clone(),
        name: record.name.clone(),
        exit_code: state.and_then(|state| state.exit_code),
        reason: state.and_then(|state| state.reason.clone()),
    };
    let path = path(root);
    if std::fs::metadata(&path).is_ok_and(|meta| meta.len() > ROTATE_AT) {
        let _ = std::fs::rename(&path, root.join("events.jsonl.old"));
    }
    let Ok(mut line) = serde_json::to_vec(&event) else {
        return;
    };
    line.push(b'\n');
    // One write to a file opened for appending: lines never mix.
    if let Ok(mut file) = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
    {
        let _ = file.write_all(&line);
    }
}

//! Where things are below a machine's root.
//!
//! ```text
//!   /opt/bulkhead/state.json                  what was done, and how to undo it
//!                 current -> versions/V       for people and scripts
//!                 versions/V/                 programs, guest/, manifest.json
//!                 handlers/V/NAME.toml        settings of a handler
//!                 handlers/V/NAME             what Podman executes for it
//!                 stage/                      a version being copied
//!   /run/lock/bulkhead-node.lock              held while something changes
//! ```

use std::path::{Path, PathBuf};

use crate::version::Version;

/// Everything of ours but the runtime's configuration.
pub(crate) const HOME: &str = "/opt/bulkhead";

/// What [`HOME`] is called while it is removed.
pub(crate) const LEAVING: &str = "/opt/.bulkhead-leaving";

/// The journal.
pub(crate) const STATE: &str = "/opt/bulkhead/state.json";

/// The link to the version new pods get.
pub(crate) const CURRENT: &str = "/opt/bulkhead/current";

/// Installed versions.
pub(crate) const VERSIONS: &str = "/opt/bulkhead/versions";

/// Settings of handlers, by version.
pub(crate) const HANDLERS: &str = "/opt/bulkhead/handlers";

/// A version being copied.
pub(crate) const STAGE: &str = "/opt/bulkhead/stage";

/// Where shims keep layers as images.
pub(crate) const LAYERS: &str = "/opt/bulkhead/layers";

/// A version's record of itself, in its directory.
pub(crate) const MANIFEST: &str = "manifest.json";

/// The node's lock.
pub(crate) const LOCK: &str = "/run/lock/bulkhead-node.lock";

/// The program of the command line, in a version.
pub(crate) const PROGRAM: &str = "bulkhead";

/// The program containerd starts, in a version.
pub(crate) const SHIM: &str = "containerd-shim-bulkhead-v2";

/// The guests of a version, in it.
pub(crate) const GUESTS: &str = "guest";

/// A version's directory.
pub(crate) fn version(version: &Version) -> PathBuf {
    Path::new(VERSIONS).join(version.as_str())
}

/// A version's directory of handler settings.
pub(crate) fn handlers(version: &Version) -> PathBuf {
    Path::new(HANDLERS).join(version.as_str())
}

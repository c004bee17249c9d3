//! The runtime's configuration: one file, drop-ins beside it, and what a pod
//! may set for itself.
//!
//! ```text
//!   defaults ◀ config.toml ◀ config.d/*.toml, by name ◀ annotations, if allowed
//! ```
//! Each setting is described once, in [`SETTINGS`]: its range is checked, it is
//! explained and its reference is written from there.

mod annotations;
mod error;
mod files;
mod settings;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use annotations::PREFIX;
pub use error::ConfigError;
pub use files::{DEFAULT_PATH, Explained, Loaded};
pub use settings::{Range, SETTINGS, Setting};

/// What the shim is called while it makes images of layers: work nobody waits
/// for.
pub const LAYERS_PROGRAM: &str = "bulkhead-layers";

/// Every setting; an absent one has its default. See [`SETTINGS`] for what each
/// means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "each is described in `SETTINGS`")]
pub struct Config {
    pub accelerator: String,
    pub kernel: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guests: Option<PathBuf>,
    pub vcpus: u32,
    pub memory_mib: u64,
    pub grow_vcpus: u32,
    pub grow_memory_mib: u64,
    pub guest_overhead_mib: u64,
    pub host_overhead_mib: u64,
    pub storage_mib: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<PathBuf>,
    pub layers_mib: u64,
    pub layers_reserve: u8,
    pub start_timeout: u64,
    pub debug: bool,
    pub log_level: String,
    pub trace: bool,
    pub annotations: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            accelerator: "auto".to_owned(),
            kernel: "auto".to_owned(),
            guests: None,
            vcpus: 1,
            memory_mib: 512,
            grow_vcpus: 2,
            grow_memory_mib: 4096,
            guest_overhead_mib: 64,
            host_overhead_mib: 64,
            storage_mib: 10 << 10,
            layers: None,
            layers_mib: 20 << 10,
            layers_reserve: 20,
            start_timeout: 60,
            debug: true,
            log_level: "info".to_owned(),
            trace: false,
            annotations: Vec::new(),
        }
    }
}

impl Config {
    /// How long each phase of a start may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.start_timeout)
    }

    /// What a pod costs beside what its containers may use, MiB: what a
    /// RuntimeClass should declare as overhead.
    pub fn overhead_mib(&self) -> u64 {
        self.guest_overhead_mib + self.host_overhead_mib
    }
}

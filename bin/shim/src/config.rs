//! The shim's configuration: one TOML file.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protobuf::CodedInputStream;
use serde::Deserialize;

/// The file that is read when containerd names no other.
const DEFAULT_PATH: &str = "/etc/bulkhead/config.toml";

/// Largest file read, bytes.
const SIZE_LIMIT: u64 = 1 << 20;

/// Every setting; an absent one has its default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// "auto" (KVM where it is usable, else emulation), "kvm", "tcg".
    pub(crate) accelerator: String,
    /// "auto", "tuned", "distro".
    pub(crate) kernel: String,
    /// Directory of built guests; unset: /var/cache/bulkhead/guest.
    pub(crate) guests: Option<PathBuf>,
    /// vCPUs of a pod without a CPU limit.
    pub(crate) vcpus: u32,
    /// Memory of a pod without a memory limit, MiB.
    pub(crate) memory_mib: u64,
    /// Memory added to a pod's limit for the guest's kernel and agent, MiB.
    pub(crate) guest_overhead_mib: u64,
    /// Room for what a pod's containers write to their root filesystems, MiB.
    pub(crate) storage_mib: u64,
    /// How long each phase of a start may take, seconds.
    pub(crate) start_timeout: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            accelerator: "auto".to_owned(),
            kernel: "auto".to_owned(),
            guests: None,
            vcpus: 1,
            memory_mib: 512,
            guest_overhead_mib: 64,
            storage_mib: 10 << 10,
            start_timeout: 60,
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("the configuration `{}` cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the configuration `{}` is wrong", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("the configuration `{}` is wrong: `{setting}` has to be {range}", path.display())]
    Range {
        path: PathBuf,
        setting: &'static str,
        range: &'static str,
    },
}

impl Config {
    /// Reads the file containerd names in the runtime's options, or the
    /// default one, which may be absent.
    pub(crate) fn load(options: Option<&str>) -> Result<Self, ConfigError> {
        let named = options.filter(|path| !path.is_empty());
        let path = Path::new(named.unwrap_or(DEFAULT_PATH));
        let read = |path: &Path| -> std::io::Result<String> {
            let mut text = String::new();
            let file = std::fs::File::open(path)?;
            file.take(SIZE_LIMIT).read_to_string(&mut text)?;
            Ok(text)
        };
        match read(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(source) => Err(ConfigError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let one_of = |value: &str, words: &[&str]| words.contains(&value);
        let checks = [
            (
                one_of(&config.accelerator, &["auto", "kvm", "tcg"]),
                "accelerator",
                "`auto`, `kvm` or `tcg`",
            ),
            (
                one_of(&config.kernel, &["auto", "tuned", "distro"]),
                "kernel",
                "`auto`, `tuned` or `distro`",
            ),
            ((1..=255).contains(&config.vcpus), "vcpus", "1 to 255"),
            (
                (64..=1 << 24).contains(&config.memory_mib),
                "memory_mib",
                "64 to 16777216",
            ),
            (
                config.guest_overhead_mib <= 4096,
                "guest_overhead_mib",
                "at most 4096",
            ),
            (
                (16..=1 << 26).contains(&config.storage_mib),
                "storage_mib",
                "16 to 67108864",
            ),
            (
                (1..=3600).contains(&config.start_timeout),
                "start_timeout",
                "1 to 3600",
            ),
        ];
        match checks.iter().find(|(good, ..)| !good) {
            None => Ok(config),
            Some((_, setting, range)) => Err(ConfigError::Range {
                path: path.to_owned(),
                setting,
                range,
            }),
        }
    }

    /// How long each phase of a start may take.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.start_timeout)
    }
}

/// `config_path` of containerd's `runtimeoptions.v1.Options` (field 2), the
/// message it sends for a runtime it does not know. Another message has none.
pub(crate) fn path_in_options(type_url: &str, bytes: &[u8]) -> Option<String> {
    if !type_url.ends_with("runtimeoptions.v1.Options") {
        return None;
    }
    const LENGTH_DELIMITED: u32 = 2;
    let mut stream = CodedInputStream::from_bytes(bytes);
    while let Ok(Some(tag)) = stream.read_raw_tag_or_eof() {
        if tag & 7 != LENGTH_DELIMITED {
            return None;
        }
        let text = stream.read_bytes().ok()?;
        if tag >> 3 == 2 {
            return String::from_utf8(text).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("c")).map_err(|error| bulkhead_provision::chain(&error))
    }

    #[test]
    fn absent_settings_have_defaults_and_wrong_ones_are_named() {
        assert_eq!(parse("").unwrap(), Config::default());
        assert_eq!(parse("vcpus = 4").unwrap().vcpus, 4);
        assert!(parse("vcpu = 4").unwrap_err().contains("vcpu"));
        assert!(parse("vcpus = 0").unwrap_err().contains("1 to 255"));
        assert!(parse("kernel = 'mine'").unwrap_err().contains("`distro`"));
    }

    #[test]
    fn a_named_file_has_to_be_there() {
        assert!(Config::load(Some("/nowhere/c.toml")).is_err());
    }

    #[test]
    fn the_options_path_is_found() {
        let bytes = b"\x0a\x03abc\x12\x04/etc";
        let url = "runtimeoptions.v1.Options";
        assert_eq!(path_in_options(url, bytes).as_deref(), Some("/etc"));
        assert_eq!(path_in_options("containerd.runc.v1.Options", bytes), None);
    }

    proptest! {
        #[test]
        fn no_options_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = path_in_options("runtimeoptions.v1.Options", &bytes);
        }

        #[test]
        fn no_file_panics(text in ".*") {
            let _ = parse(&text);
        }
    }
}

//! Why a configuration cannot be used.

use std::path::PathBuf;

/// Why a configuration cannot be used. Names the file or annotation.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file is there and cannot be read, or was named and is not there.
    #[error("the configuration `{}` cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// No TOML.
    #[error("the configuration `{}` is wrong", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and what.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A setting nobody knows.
    #[error("the configuration `{}` is wrong: there is no setting `{setting}`", path.display())]
    Unknown {
        /// Which file.
        path: PathBuf,
        /// Its name.
        setting: String,
    },
    /// A value out of range.
    #[error("the configuration `{}` is wrong: `{setting}` has to be {range}", path.display())]
    Range {
        /// Which file.
        path: PathBuf,
        /// Its name.
        setting: &'static str,
        /// What it may be.
        range: String,
    },
    /// An annotation the administrator did not allow.
    #[error(
        "the annotation `{key}` is not allowed on this node: its administrator would have to list \
         the setting under `annotations` in the configuration"
    )]
    Refused {
        /// The annotation.
        key: String,
    },
    /// An annotation with a value out of range.
    #[error("the annotation `{key}` has to be {range}")]
    Annotation {
        /// The annotation.
        key: String,
        /// What it may be.
        range: String,
    },
}

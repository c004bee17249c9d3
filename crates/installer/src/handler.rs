//! A runtime handler: the name pods ask for, and the settings of its machines.

use std::fmt;

use bulkhead_config::{SETTINGS, Setting};
use serde::{Deserialize, Serialize};

use crate::places;
use crate::runtime::Runtime;
use crate::version::Version;

/// Longest name, bytes: a DNS label.
const NAME_LIMIT: usize = 63;

/// Names that belong to other runtimes in every configuration.
const FOREIGN: [&str; 3] = ["runc", "crun", "youki"];

/// The settings that are the installer's.
const GUESTS: &str = "guests";
const LAYERS: &str = "layers";

/// A handler's name, as RuntimeClass objects allow it: a DNS label
/// (RFC 1123) that is no other runtime's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HandlerName(String);

/// Why a handler cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandlerError {
    /// The name is none.
    #[error(
        "`{}` is no handler's name: 1 to {NAME_LIMIT} of a-z, 0-9 and `-`, with no `-` at an end",
        .0.escape_debug()
    )]
    Name(String),
    /// The name is another runtime's.
    #[error("the handler `{0}` is another runtime's; choose another name")]
    Foreign(String),
    /// Two handlers have the same name.
    #[error("the handler `{0}` is given twice")]
    Twice(HandlerName),
    /// There is no such setting.
    #[error("there is no setting `{}`; there are: {}", .0.escape_debug(), known())]
    Setting(String),
    /// The setting has another kind of value.
    #[error("the setting `{setting}` cannot be `{}`; it has to be {range}", value.escape_debug())]
    Value {
        /// Which.
        setting: String,
        /// What was given.
        value: String,
        /// What it can be.
        range: String,
    },
}

fn open() -> impl Iterator<Item = &'static Setting> {
    SETTINGS
        .iter()
        .filter(|setting| ![GUESTS, LAYERS].contains(&setting.name))
}

fn known() -> String {
    open()
        .map(|setting| setting.name)
        .collect::<Vec<_>>()
        .join(", ")
}

impl HandlerName {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for HandlerName {
    type Error = HandlerError;

    fn try_from(text: String) -> Result<Self, HandlerError> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let good = (1..=NAME_LIMIT).contains(&text.len())
            && text.chars().all(fits)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if !good {
            return Err(HandlerError::Name(text));
        }
        if FOREIGN.contains(&text.as_str()) {
            return Err(HandlerError::Foreign(text));
        }
        Ok(Self(text))
    }
}

impl From<HandlerName> for String {
    fn from(name: HandlerName) -> Self {
        name.0
    }
}

impl fmt::Display for HandlerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A handler and the settings of its machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handler {
    /// What pods ask for.
    pub name: HandlerName,
    settings: std::collections::BTreeMap<String, String>,
}

impl Handler {
    /// A handler with default settings.
    #[must_use]
    pub fn new(name: HandlerName) -> Self {
        Self {
            name,
            settings: std::collections::BTreeMap::new(),
        }
    }

    /// Changes a setting: its name in the shim's configuration, and its value
    /// as text.
    ///
    /// # Errors
    /// [`HandlerError::Setting`], [`HandlerError::Value`].
    pub fn set(&mut self, setting: &str, value: &str) -> Result<(), HandlerError> {
        let known = open().find(|known| known.name == setting);
        let known = known.ok_or_else(|| HandlerError::Setting(setting.to_owned()))?;
        let read = known.read(value);
        if !known.takes(&read) {
            return Err(HandlerError::Value {
                setting: setting.to_owned(),
                value: value.to_owned(),
                range: known.range.to_string(),
            });
        }
        self.settings.insert(setting.to_owned(), read.to_string());
        Ok(())
    }

    /// Where its settings are, for a version.
    pub(crate) fn path(&self, version: &Version) -> std::path::PathBuf {
        places::handlers(version).join(format!("{}.toml", self.name))
    }

    /// The files of a version that are this handler's: path, text, mode.
    pub(crate) fn files(&self, version: &Version, runtime: Runtime) -> Vec<HandlerFile> {
        let settings = (self.path(version), self.config(version), 0o644);
        match runtime {
            Runtime::Podman => vec![settings, self.launcher(version)],
            _ => vec![settings],
        }
    }

    /// Podman names a program for a runtime, and no arguments of it.
    fn launcher(&self, version: &Version) -> HandlerFile {
        let program = places::version(version).join(places::PROGRAM);
        let text = format!(
            "#!/bin/sh\n\
             # Written by `bulkhead node install`.\n\
             exec {} --machine-config {} \"$@\"\n",
            program.display(),
            self.path(version).display()
        );
        (self.launcher_path(version), text, 0o755)
    }

    fn launcher_path(&self, version: &Version) -> std::path::PathBuf {
        places::handlers(version).join(self.name.as_str())
    }

    /// The shim's configuration.
    pub(crate) fn config(&self, version: &Version) -> String {
        let guests = places::version(version).join(places::GUESTS);
        let mut text = format!(
            "# Written by `bulkhead node install`, with what was given to it for this handler.\n\
             {GUESTS} = \"{}\"\n\
             {LAYERS} = \"{}\"\n",
            guests.display(),
            places::LAYERS
        );
        for (setting, value) in &self.settings {
            text.push_str(&format!("{setting} = {value}\n"));
        }
        text
    }
}

/// A file of a handler's: path, text, mode.
pub(crate) type HandlerFile = (std::path::PathBuf, String, u32);

/// Whether no two have one name.
pub(crate) fn check_names(handlers: &[Handler]) -> Result<(), HandlerError> {
    let mut names: Vec<_> = handlers.iter().map(|handler| &handler.name).collect();
    names.sort();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(HandlerError::Twice(pair[0].clone())),
        None => Ok(()),
    }
}

/// How containerd's configurations differ. containerd's docs/PLUGINS.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Schema {
    /// `version = 1`, or none.
    One,
    /// `version = 2`.
    Two,
    /// `version = 3`, of containerd 2.
    Three,
}

impl Schema {
    /// The CRI plugin's key in `plugins`.
    pub(crate) fn plugin(self) -> &'static str {
        match self {
            Self::One => "cri",
            Self::Two => "io.containerd.grpc.v1.cri",
            Self::Three => "io.containerd.cri.v1.runtime",
        }
    }

    /// Its number.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Three => 3,
        }
    }
}

/// How containerd is told which shim is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Naming {
    /// `runtime_type` is the shim's path: containerd 1.6 knows `runtime_path`
    /// and does not use it.
    Type,
    /// `runtime_path`, from 1.7.
    Path,
}

/// The handlers' tables for containerd.
pub(crate) fn containerd(
    handlers: &[Handler],
    version: &Version,
    schema: Schema,
    naming: Naming,
) -> String {
    let shim = places::version(version).join(places::SHIM);
    let shim = shim.display();
    let runtime = match naming {
        Naming::Type => format!("runtime_type = \"{shim}\"\n"),
        Naming::Path => {
            format!("runtime_type = \"io.containerd.bulkhead.v2\"\nruntime_path = \"{shim}\"\n")
        }
    };
    let mut text = String::new();
    for handler in handlers {
        let table = format!(
            "plugins.\"{}\".containerd.runtimes.{}",
            schema.plugin(),
            handler.name
        );
        text.push_str(&format!(
            "[{table}]\n\
             {runtime}\
             privileged_without_host_devices = true\n\
             pod_annotations = [\"io.bulkhead.*\"]\n\
             [{table}.options]\n\
             ConfigPath = \"{}\"\n",
            handler.path(version).display()
        ));
    }
    text
}

/// The table of the handler containerd has by itself: one that is older than 2
/// loses it to the first that is written, and with it its whole CRI ("no
/// corresponding runtime configured"). From 2 on it has both anyway.
pub(crate) fn default_of(schema: Schema) -> String {
    match schema {
        Schema::Three => String::new(),
        Schema::One | Schema::Two => format!(
            "# As by default; without it there would be none beside ours.\n\
             [plugins.\"{}\".containerd.runtimes.runc]\n\
             runtime_type = \"io.containerd.runc.v2\"\n",
            schema.plugin()
        ),
    }
}

/// The handlers' tables for CRI-O. crio.conf(5), "CRIO.RUNTIME.RUNTIMES TABLE".
pub(crate) fn crio(handlers: &[Handler], version: &Version) -> String {
    let shim = places::version(version).join(places::SHIM);
    let mut text = String::new();
    for handler in handlers {
        text.push_str(&format!(
            "[crio.runtime.runtimes.{}]\n\
             runtime_type = \"vm\"\n\
             runtime_path = \"{}\"\n\
             runtime_root = \"/run/bulkhead/crio\"\n\
             runtime_config_path = \"{}\"\n\
             privileged_without_host_devices = true\n",
            handler.name,
            shim.display(),
            handler.path(version).display()
        ));
    }
    text
}

/// The handlers as Podman's runtimes. containers.conf(5), "ENGINE.RUNTIMES TABLE".
pub(crate) fn podman(handlers: &[Handler], version: &Version) -> String {
    let mut text = "[engine.runtimes]\n".to_owned();
    for handler in handlers {
        let launcher = handler.launcher_path(version);
        text.push_str(&format!(
            "{} = [\"{}\"]\n",
            handler.name,
            launcher.display()
        ));
    }
    text
}

/// The tables as a value, to look for in a whole configuration.
pub(crate) fn runtimes<'a>(config: &'a toml::Table, path: &[&str]) -> Option<&'a toml::Table> {
    path.iter()
        .try_fold(config, |table, key| table.get(*key)?.as_table())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_are_hostile_or_taken_are_refused() {
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a\"]\nx",
            "ä",
            "../x",
            "runc",
            &"a".repeat(64),
        ] {
            assert!(HandlerName::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
        for good in ["kata", "kata-small", "x1"] {
            assert!(HandlerName::try_from(good.to_owned()).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn settings_are_checked_before_they_are_written() {
        let mut handler = Handler::new(HandlerName::try_from("kata".to_owned()).unwrap());
        handler.set("accelerator", "tcg").unwrap();
        handler.set("vcpus", "4").unwrap();
        for (setting, value) in [
            ("guests", "/x"),
            ("layers", "/x"),
            ("vcpus", "x"),
            ("vcpus", "0"),
            ("memory_mib", "-1"),
            ("accelerator", "\"\n"),
        ] {
            assert!(handler.set(setting, value).is_err());
        }
        let version = Version::try_from("1".to_owned()).unwrap();
        let config: toml::Table = handler.config(&version).parse().unwrap();
        assert_eq!(config["accelerator"].as_str(), Some("tcg"));
        assert_eq!(config["vcpus"].as_integer(), Some(4));
        assert_eq!(
            config["guests"].as_str(),
            Some("/opt/bulkhead/versions/1/guest")
        );
        // It goes with everything else.
        assert_eq!(config["layers"].as_str(), Some("/opt/bulkhead/layers"));
    }

    proptest! {
        #[test]
        fn every_good_name_makes_good_toml(name in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?") {
            prop_assume!(!FOREIGN.contains(&name.as_str()));
            let handlers = [Handler::new(HandlerName::try_from(name.clone()).unwrap())];
            let version = Version::try_from("1".to_owned()).unwrap();
            for (text, path) in [
                (containerd(&handlers, &version, Schema::Two, Naming::Path),
                 ["plugins", Schema::Two.plugin(), "containerd", "runtimes"]),
                (crio(&handlers, &version).replace("[crio.", "[x.crio."),
                 ["x", "crio", "runtime", "runtimes"]),
            ] {
                let table: toml::Table = text.parse().unwrap();
                let found = runtimes(&table, &path).unwrap();
                let path = found[&name]["runtime_path"].as_str().unwrap();
                prop_assert!(path.starts_with(places::HOME), "{text}");
            }
        }
    }
}

//! The files and what each contributes.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;
use toml::{Table, Value};

use crate::settings::{self, SETTINGS};
use crate::{Config, ConfigError};

/// The file that is read when the caller names no other.
pub const DEFAULT_PATH: &str = "/etc/bulkhead/config.toml";

/// Largest file read, bytes.
const SIZE_LIMIT: u64 = 1 << 20;

/// Most drop-ins read.
const COUNT_LIMIT: usize = 256;

/// A configuration, and which file said what.
#[derive(Debug)]
pub struct Loaded {
    /// What holds.
    pub config: Config,
    from: HashMap<String, PathBuf>,
    set: Table,
}

/// One setting, explained.
#[derive(Debug, Serialize)]
pub struct Explained {
    /// Its name.
    pub name: &'static str,
    /// What holds; none: unset.
    pub value: Option<Value>,
    /// The file that says so; none: it is the default.
    pub from: Option<PathBuf>,
    /// What it may be.
    pub range: String,
    /// What it is.
    pub what: &'static str,
}

impl Loaded {
    /// Reads a file and the drop-ins beside it: `NAME.d/*.toml` of `NAME.toml`,
    /// in the order of their names, each setting replacing earlier ones. A file
    /// that was named has to be there; the default one may be absent.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(Path::new(DEFAULT_PATH));
        let mut loaded = Self {
            config: Config::default(),
            from: HashMap::new(),
            set: Table::new(),
        };
        match text(path) {
            Ok(text) => loaded.add(&text, path)?,
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(ConfigError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        }
        for path in drop_ins(&path.with_extension("d"))? {
            let text = text(&path).map_err(|source| ConfigError::Read {
                path: path.clone(),
                source,
            })?;
            loaded.add(&text, &path)?;
        }
        Ok(loaded)
    }

    fn add(&mut self, text: &str, path: &Path) -> Result<(), ConfigError> {
        let parse = |source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let table: Table = toml::from_str(text).map_err(parse)?;
        for (name, value) in &table {
            let setting = settings::named(name).ok_or_else(|| ConfigError::Unknown {
                path: path.to_owned(),
                setting: name.chars().take(100).collect(),
            })?;
            if !setting.takes(value) {
                return Err(ConfigError::Range {
                    path: path.to_owned(),
                    setting: setting.name,
                    range: setting.range.to_string(),
                });
            }
            self.from.insert(name.clone(), path.to_owned());
        }
        self.set.extend(table);
        self.config = self.set.clone().try_into().map_err(parse)?;
        Ok(())
    }

    /// Every setting, what holds and who said so.
    pub fn explain(&self) -> Vec<Explained> {
        let values = Table::try_from(&self.config).unwrap_or_default();
        SETTINGS
            .iter()
            .map(|setting| Explained {
                name: setting.name,
                value: values.get(setting.name).cloned(),
                from: self.from.get(setting.name).cloned(),
                range: setting.range.to_string(),
                what: setting.what,
            })
            .collect()
    }
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(SIZE_LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

fn drop_ins(dir: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let failed = |source| ConfigError::Read {
        path: dir.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|end| end == "toml") {
            found.push(path);
        }
        if found.len() > COUNT_LIMIT {
            return Err(failed(io::Error::other("it holds too many files")));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let mut loaded = Loaded {
            config: Config::default(),
            from: HashMap::new(),
            set: Table::new(),
        };
        loaded
            .add(text, Path::new("c"))
            .map(|()| loaded.config)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn absent_settings_have_defaults_and_wrong_ones_are_named() {
        assert_eq!(parse("").unwrap(), Config::default());
        assert_eq!(parse("vcpus = 4").unwrap().vcpus, 4);
        assert!(parse("vcpu = 4").unwrap_err().contains("`vcpu`"));
        assert!(parse("vcpus = 0").unwrap_err().contains("1 to 255"));
        assert!(parse("vcpus = '4'").unwrap_err().contains("1 to 255"));
        assert!(parse("kernel = 'mine'").unwrap_err().contains("`distro`"));
        assert!(parse("annotations = ['kernel']").is_err());
        assert!(parse("annotations = ['vcpus']").is_ok());
    }

    #[test]
    fn every_setting_is_described_and_every_default_is_in_range() {
        let all = Config {
            guests: Some("/guests".into()),
            layers: Some("/layers".into()),
            ..Config::default()
        };
        let table = Table::try_from(&all).unwrap();
        assert_eq!(table.len(), SETTINGS.len());
        for setting in SETTINGS {
            assert!(setting.takes(&table[setting.name]), "{}", setting.name);
        }
    }

    #[test]
    fn later_files_replace_single_settings_of_earlier_ones() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("config.toml");
        std::fs::write(&main, "vcpus = 2\nmemory_mib = 256").unwrap();
        std::fs::create_dir(dir.path().join("config.d")).unwrap();
        let drop_in = |name: &str, text: &str| {
            std::fs::write(dir.path().join("config.d").join(name), text).unwrap();
        };
        drop_in("20-b.toml", "vcpus = 8");
        drop_in("10-a.toml", "vcpus = 4\nstorage_mib = 64");
        drop_in("ignored.bak", "nonsense");
        let loaded = Loaded::read(Some(&main)).unwrap();
        let Config {
            vcpus,
            memory_mib,
            storage_mib,
            ..
        } = loaded.config;
        assert_eq!((vcpus, memory_mib, storage_mib), (8, 256, 64));
        let explained = loaded.explain();
        let from = |name: &str| {
            let own = explained.iter().find(|own| own.name == name).unwrap();
            own.from.clone()
        };
        assert!(from("vcpus").unwrap().ends_with("20-b.toml"));
        assert!(from("memory_mib").unwrap().ends_with("config.toml"));
        assert_eq!(from("kernel"), None);

        drop_in("30-c.toml", "vcpus = 0");
        let error = Loaded::read(Some(&main)).unwrap_err().to_string();
        assert!(error.contains("30-c.toml"), "{error}");
    }

    #[test]
    fn a_named_file_has_to_be_there() {
        assert!(Loaded::read(Some(Path::new("/nowhere/c.toml"))).is_err());
    }

    proptest! {
        #[test]
        fn no_file_panics(text in ".*") {
            let _ = parse(&text);
        }
    }
}

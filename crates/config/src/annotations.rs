//! What a pod sets for itself.

use std::collections::HashMap;

use toml::Table;

use crate::{Config, ConfigError, settings};

/// How an annotation that means a setting begins.
pub const PREFIX: &str = "io.bulkhead.";

/// Longest annotation quoted in an error, characters.
const QUOTED: usize = 100;

impl Config {
    /// The configuration of one pod. Its annotations come from a tenant: what
    /// is not allowed by name, and in range, is refused and not ignored.
    ///
    /// # Errors
    /// [`ConfigError::Refused`], [`ConfigError::Annotation`].
    pub fn with_annotations(
        self,
        annotations: &HashMap<String, String>,
    ) -> Result<Self, ConfigError> {
        let mut set = Table::new();
        for (key, text) in annotations {
            let Some(name) = key.strip_prefix(PREFIX) else {
                continue;
            };
            let quoted = || key.chars().take(QUOTED).collect();
            let allowed = self.annotations.iter().any(|allowed| allowed == name);
            let setting = settings::named(name).filter(|setting| allowed && setting.by_pod);
            let Some(setting) = setting else {
                return Err(ConfigError::Refused { key: quoted() });
            };
            let value = setting.read(text);
            if !setting.takes(&value) {
                return Err(ConfigError::Annotation {
                    key: quoted(),
                    range: setting.range.to_string(),
                });
            }
            set.insert(name.to_owned(), value);
        }
        if set.is_empty() {
            return Ok(self);
        }
        let merged = Table::try_from(&self).map(|mut all| {
            all.extend(set);
            all.try_into().ok()
        });
        merged.ok().flatten().ok_or_else(|| ConfigError::Refused {
            key: PREFIX.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(allowed: &[&str], key: &str, value: &str) -> Result<Config, String> {
        let config = Config {
            annotations: allowed.iter().map(|name| (*name).to_owned()).collect(),
            ..Config::default()
        };
        let annotations = HashMap::from([(key.to_owned(), value.to_owned())]);
        config
            .with_annotations(&annotations)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_pod_sets_what_it_may_and_nothing_else() {
        let set = ask(&["vcpus"], "io.bulkhead.vcpus", "4").unwrap();
        assert_eq!((set.vcpus, set.memory_mib), (4, 512));
        let refused = ask(&[], "io.bulkhead.vcpus", "4").unwrap_err();
        assert!(refused.contains("io.bulkhead.vcpus"), "{refused}");
        let range = ask(&["vcpus"], "io.bulkhead.vcpus", "0").unwrap_err();
        assert!(range.contains("1 to 255"), "{range}");
        assert!(ask(&["vcpus"], "io.bulkhead.vcpus", "many").is_err());
        // Not even an administrator's slip lets a pod choose the kernel.
        assert!(ask(&["kernel"], "io.bulkhead.kernel", "distro").is_err());
        // Other people's annotations are no business of ours.
        assert!(ask(&[], "example.org/vcpus", "4").is_ok());
    }
}

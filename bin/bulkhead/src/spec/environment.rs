//! Environment variables: the image's, files', the user's; later ones win.

use std::collections::BTreeMap;
use std::path::Path;

use super::SpecError;

/// Largest environment file, bytes.
const FILE_LIMIT: u64 = 1 << 20;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables in order of their first mention.
#[derive(Debug, Default)]
pub(super) struct Environment {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Environment {
    /// What every container starts with.
    pub(super) fn new(terminal: bool) -> Self {
        let mut environment = Self::default();
        environment.set("PATH", DEFAULT_PATH);
        environment.set("container", "bulkhead");
        if terminal {
            environment.set("TERM", "xterm");
        }
        environment
    }

    /// Sets one.
    pub(super) fn set(&mut self, key: &str, value: &str) {
        if !self.values.contains_key(key) {
            self.order.push(key.to_owned());
        }
        self.values.insert(key.to_owned(), value.to_owned());
    }

    /// Sets one only when nobody did.
    pub(super) fn set_default(&mut self, key: &str, value: &str) {
        if !self.values.contains_key(key) {
            self.set(key, value);
        }
    }

    /// "KEY=VALUE", "KEY" (the caller's value, if any), "PREFIX*".
    pub(super) fn add(&mut self, text: &str, caller: &dyn Fn(&str) -> Option<String>) {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => self.set(key, value),
            Some(_) => {}
            None => {
                if let Some(value) = caller(text) {
                    self.set(text, &value);
                }
            }
        }
    }

    /// Lines of "KEY=VALUE" or "KEY"; `#` begins a comment line.
    pub(super) fn add_file(
        &mut self,
        path: &Path,
        caller: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), SpecError> {
        use std::io::Read;
        let failed = |source| SpecError::File {
            path: path.to_owned(),
            source,
        };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(FILE_LIMIT)
            .read_to_string(&mut text)
            .map_err(failed)?;
        for line in text.lines() {
            let line = line.trim_start();
            if !line.is_empty() && !line.starts_with('#') {
                self.add(line, caller);
            }
        }
        Ok(())
    }

    /// The OCI form.
    pub(super) fn into_list(mut self) -> Vec<String> {
        let values = &mut self.values;
        self.order
            .into_iter()
            .filter_map(|key| values.remove(&key).map(|value| format!("{key}={value}")))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_ones_win_and_bare_names_are_the_callers() {
        let caller = |key: &str| (key == "LANG").then(|| "C".to_owned());
        let mut environment = Environment::new(true);
        for text in ["PATH=/x", "LANG", "MISSING", "A=1", "A=2=3", "=bad"] {
            environment.add(text, &caller);
        }
        let list = environment.into_list();
        assert_eq!(
            list,
            [
                "PATH=/x",
                "container=bulkhead",
                "TERM=xterm",
                "LANG=C",
                "A=2=3"
            ]
        );
    }

    #[test]
    fn a_file_has_comments_and_values_with_spaces() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("env");
        std::fs::write(&path, "# no\n\nA=b c\n  B=2\n").unwrap();
        let mut environment = Environment::default();
        environment.add_file(&path, &|_| None).unwrap();
        assert_eq!(environment.into_list(), ["A=b c", "B=2"]);
    }
}

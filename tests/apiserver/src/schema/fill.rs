//! Defaults, and fields nobody declared.

use serde_json::{Map, Value};

use super::Schema;

/// What a resource always has.
const ALWAYS: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl Schema {
    /// Removes what the schema does not declare and gives the paths removed.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut removed = Vec::new();
        self.prune_value(object, "", true, &mut removed);
        removed
    }

    fn prune_value(&self, value: &mut Value, path: &str, root: bool, removed: &mut Vec<String>) {
        match value {
            Value::Object(map) => self.prune_map(map, path, root, removed),
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    for (index, item) in list.iter_mut().enumerate() {
                        items.prune_value(item, &format!("{path}[{index}]"), false, removed);
                    }
                }
            }
            _ => {}
        }
    }

    fn prune_map(
        &self,
        map: &mut Map<String, Value>,
        path: &str,
        root: bool,
        removed: &mut Vec<String>,
    ) {
        let mut unknown = Vec::new();
        for (name, value) in map.iter_mut() {
            let here = match path {
                "" => name.clone(),
                path => format!("{path}.{name}"),
            };
            if (root || self.embedded) && ALWAYS.contains(&name.as_str()) {
                continue;
            }
            match self.field(name) {
                Some(below) => below.prune_value(value, &here, false, removed),
                None if self.preserve => {}
                None => unknown.push((name.clone(), here)),
            }
        }
        for (name, here) in unknown {
            map.remove(&name);
            removed.push(here);
        }
    }

    /// Sets what is missing and has a default, all the way down.
    pub fn fill(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (name, below) in &self.properties {
                    let Some(default) = &below.default else {
                        continue;
                    };
                    let null = map.get(name).is_some_and(Value::is_null) && !below.nullable;
                    if null || !map.contains_key(name) {
                        map.insert(name.clone(), default.clone());
                    }
                }
                for (name, value) in map.iter_mut() {
                    if let Some(below) = self.field(name) {
                        below.fill(value);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    for item in list {
                        items.fill(item);
                    }
                }
            }
            _ => {}
        }
    }
}

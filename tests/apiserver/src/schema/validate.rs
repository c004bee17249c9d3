//! Whether a value is what its schema says, in Kubernetes' words.

use serde_json::{Map, Value};

use super::{Bounds, Checks, List, Schema, Type};
use crate::cel;
use crate::failure::Cause;

impl Schema {
    /// Everything wrong with an object; `old` is what it was before an update.
    #[must_use]
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut causes = Vec::new();
        self.value(object, "", &mut causes);
        // Rules may rely on types, so they wait until those are right.
        if causes.is_empty() {
            self.rules(object, old, "", &mut causes);
        }
        causes
    }

    fn value(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        if value.is_null() && (self.nullable || (self.kind.is_none() && !self.int_or_string)) {
            return;
        }
        if !self.has_type(value) {
            let wanted = match self.kind {
                Some(kind) => kind.name(),
                None => "integer,string",
            };
            let shown = Value::from(type_name(value));
            let message = format!("{} in body must be of type {wanted}: {shown}", path);
            let mut cause = Cause::invalid(&shown_path(path), &shown, &message);
            cause.reason = "FieldValueTypeInvalid";
            causes.push(cause);
            return;
        }
        self.checks.value(value, path, causes);
        match value {
            Value::Object(map) => self.members(map, path, causes),
            Value::Array(list) => self.elements(list, path, causes),
            _ => {}
        }
    }

    fn has_type(&self, value: &Value) -> bool {
        if self.int_or_string {
            return value.is_string() || value.is_i64() || value.is_u64();
        }
        match self.kind {
            None => true,
            Some(Type::Object) => value.is_object(),
            Some(Type::Array) => value.is_array(),
            Some(Type::String) => value.is_string(),
            Some(Type::Integer) => {
                value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
            }
            Some(Type::Number) => value.is_number(),
            Some(Type::Boolean) => value.is_boolean(),
        }
    }

    fn members(&self, map: &Map<String, Value>, path: &str, causes: &mut Vec<Cause>) {
        for (name, value) in map {
            if let Some(below) = self.properties.get(name) {
                below.value(value, &joined(path, name), causes);
            } else if let Some(below) = &self.additional {
                below.value(value, &joined(path, name), causes);
            }
        }
    }

    fn elements(&self, list: &[Value], path: &str, causes: &mut Vec<Cause>) {
        for (index, item) in list.iter().enumerate() {
            let path = format!("{path}[{index}]");
            if let Some(items) = &self.items {
                items.value(item, &path, causes);
            }
            let same = |other: &&Value| match &self.list {
                List::Atomic => self.checks.unique && *other == item,
                List::Set => *other == item,
                List::Map(keys) => keys.iter().all(|key| other.get(key) == item.get(key)),
            };
            if list[..index].iter().any(|other| same(&other)) {
                let message = format!("Duplicate value: {}", self.key_of(item));
                causes.push(Cause::new(&path, "FieldValueDuplicate", message));
            }
        }
    }

    /// What tells an item of a list from the others.
    fn key_of(&self, item: &Value) -> Value {
        let List::Map(keys) = &self.list else {
            return item.clone();
        };
        let parts = keys
            .iter()
            .filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
        Value::Object(parts.collect())
    }

    fn rules(&self, value: &Value, old: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
        for rule in &self.rules {
            if let Some(mut cause) = cel::check(rule, self, value, old) {
                cause.field = shown_path(&format!("{path}{}", cause.field));
                causes.push(cause);
            }
        }
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    if let Some(below) = self.field(name) {
                        let old = old.and_then(|old| old.get(name));
                        below.rules(value, old, &joined(path, name), causes);
                    }
                }
            }
            Value::Array(list) => {
                for (index, item) in list.iter().enumerate() {
                    if let Some(items) = &self.items {
                        let old = old.and_then(|old| self.counterpart(item, old));
                        items.rules(item, old, &format!("{path}[{index}]"), causes);
                    }
                }
            }
            _ => {}
        }
    }

    /// The item of the old list that is this one; only lists with keys tell.
    fn counterpart<'a>(&self, item: &Value, old: &'a Value) -> Option<&'a Value> {
        let List::Map(keys) = &self.list else {
            return None;
        };
        old.as_array()?
            .iter()
            .find(|other| keys.iter().all(|key| other.get(key) == item.get(key)))
    }
}

impl Checks {
    fn value(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        if !self.values.is_empty() && !self.values.contains(value) {
            let known: Vec<_> = self.values.iter().map(Value::to_string).collect();
            let message = format!(
                "Unsupported value: {value}: supported values: {}",
                known.join(", ")
            );
            causes.push(Cause::new(
                &shown_path(path),
                "FieldValueNotSupported",
                message,
            ));
        }
        match value {
            Value::Number(_) => self.number(value, path, causes),
            Value::String(text) => self.string(text, path, causes),
            Value::Array(list) => {
                let count = list.len() as u64;
                self.count(count, self.items, "items", value, path, causes);
            }
            Value::Object(map) => {
                for name in &self.required {
                    if !map.contains_key(name) {
                        let field = joined(path, name);
                        causes.push(Cause::new(&field, "FieldValueRequired", "Required value"));
                    }
                }
                let count = map.len() as u64;
                self.count(count, self.properties, "properties", value, path, causes);
            }
            _ => {}
        }
        self.combined(value, path, causes);
    }

    fn number(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        let number = value.as_f64().unwrap_or_default();
        let mut wrong = |what: String| {
            let message = format!("{} in body should be {what}", path);
            causes.push(Cause::invalid(&shown_path(path), value, &message));
        };
        if let Some(least) = self.minimum {
            if self.above && number <= least {
                wrong(format!("greater than {least}"));
            } else if number < least {
                wrong(format!("greater than or equal to {least}"));
            }
        }
        if let Some(most) = self.maximum {
            if self.below && number >= most {
                wrong(format!("less than {most}"));
            } else if number > most {
                wrong(format!("less than or equal to {most}"));
            }
        }
        if let Some(part) = self.multiple
            && (number / part).fract() != 0.0
        {
            wrong(format!("a multiple of {part}"));
        }
    }

    fn string(&self, text: &str, path: &str, causes: &mut Vec<Cause>) {
        let shown = Value::from(text);
        let count = text.chars().count() as u64;
        if let Some(most) = self.length.most
            && count > most
        {
            let message = format!("Too long: may not be more than {most} bytes");
            causes.push(Cause::new(&shown_path(path), "FieldValueTooLong", message));
        }
        if let Some(least) = self.length.least
            && count < least
        {
            let what = path;
            let message = format!("{what} in body should be at least {least} chars long");
            causes.push(Cause::invalid(&shown_path(path), &shown, &message));
        }
        if let Some(pattern) = &self.pattern
            && !pattern.is_match(text)
        {
            let message = format!("{} in body should match '{pattern}'", path);
            causes.push(Cause::invalid(&shown_path(path), &shown, &message));
        }
    }

    fn count(
        &self,
        count: u64,
        bounds: Bounds,
        what: &str,
        value: &Value,
        path: &str,
        causes: &mut Vec<Cause>,
    ) {
        if let Some(most) = bounds.most
            && count > most
        {
            let message = format!("Too many: {count}: must have at most {most} items");
            causes.push(Cause::new(&shown_path(path), "FieldValueTooMany", message));
        }
        if let Some(least) = bounds.least
            && count < least
        {
            let here = path;
            let message = format!("{here} in body should have at least {least} {what}");
            causes.push(Cause::invalid(&shown_path(path), value, &message));
        }
    }

    fn combined(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        let found = |schema: &Schema| {
            let mut causes = Vec::new();
            schema.value(value, path, &mut causes);
            causes
        };
        for schema in &self.all {
            causes.extend(found(schema));
        }
        let mut wrong = |what: &str| {
            let message = format!("{} in body must {what}", path);
            causes.push(Cause::invalid(&shown_path(path), value, &message));
        };
        if !self.any.is_empty() && self.any.iter().all(|schema| !found(schema).is_empty()) {
            wrong("validate at least one schema (anyOf)");
        }
        let fitting = self.one.iter().filter(|schema| found(schema).is_empty());
        if !self.one.is_empty() && fitting.count() != 1 {
            wrong("validate one and only one schema (oneOf)");
        }
        if self
            .not
            .as_ref()
            .is_some_and(|schema| found(schema).is_empty())
        {
            wrong("not validate the schema (not)");
        }
    }
}

fn joined(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

/// The whole object has no path.
fn shown_path(path: &str) -> String {
    match path {
        "" => "<nil>".to_owned(),
        path => path.trim_start_matches('.').to_owned(),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

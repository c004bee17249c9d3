//! From the JSON of a definition to a schema.

use regex::Regex;
use serde_json::Value;

use super::{Bounds, Checks, List, Schema, Type};
use crate::cel::{self, Rule};
use crate::failure::Cause;
use crate::object::{items, text, texts};

impl Schema {
    /// Reads the schema at `path` of a definition.
    ///
    /// # Errors
    /// Everything that keeps it from being structural, or cannot be compiled.
    pub fn compile(json: &Value, path: &str) -> Result<Self, Vec<Cause>> {
        let mut reader = Reader::default();
        let schema = reader.schema(json, path, true);
        reader.causes.extend(cel::undeclared(&schema, path));
        if reader.causes.is_empty() {
            Ok(schema)
        } else {
            Err(reader.causes)
        }
    }
}

#[derive(Default)]
struct Reader {
    causes: Vec<Cause>,
}

impl Reader {
    /// Types are needed where `structural`; below `allOf` and the like they are not allowed to
    /// matter.
    fn schema(&mut self, json: &Value, path: &str, structural: bool) -> Schema {
        let flag = |name: &str| json[name] == Value::Bool(true);
        let int_or_string = flag("x-kubernetes-int-or-string");
        let preserve = flag("x-kubernetes-preserve-unknown-fields");
        let kind = self.kind(json, path, structural && !int_or_string && !preserve);
        let properties = json["properties"].as_object().into_iter().flatten();
        let properties = properties.map(|(name, below)| {
            let path = format!("{path}.properties[{name}]");
            (name.clone(), self.schema(below, &path, structural))
        });
        let properties = properties.collect();
        let additional = match &json["additionalProperties"] {
            below @ Value::Object(_) => {
                let path = format!("{path}.additionalProperties");
                Some(Box::new(self.schema(below, &path, structural)))
            }
            Value::Bool(true) => Some(Box::new(Schema {
                preserve: true,
                ..Schema::default()
            })),
            _ => None,
        };
        let below = json.get("items");
        if structural && kind == Some(Type::Array) && below.is_none() {
            let message = "Required value: must be specified";
            self.wrong(&format!("{path}.items"), "FieldValueRequired", message);
        }
        Schema {
            kind,
            format: text(json, &["format"]).into(),
            nullable: flag("nullable"),
            int_or_string,
            preserve,
            embedded: flag("x-kubernetes-embedded-resource"),
            properties,
            additional,
            items: below
                .map(|below| Box::new(self.schema(below, &format!("{path}.items"), structural))),
            list: self.list(json, path),
            atomic_map: text(json, &["x-kubernetes-map-type"]) == "atomic",
            default: json.get("default").cloned(),
            rules: self.rules(json, path),
            checks: self.checks(json, path),
        }
    }

    fn wrong(&mut self, path: &str, reason: &'static str, message: impl Into<String>) {
        self.causes.push(Cause::new(path, reason, message));
    }

    fn kind(&mut self, json: &Value, path: &str, needed: bool) -> Option<Type> {
        let path = format!("{path}.type");
        Some(match text(json, &["type"]) {
            "object" => Type::Object,
            "array" => Type::Array,
            "string" => Type::String,
            "integer" => Type::Integer,
            "number" => Type::Number,
            "boolean" => Type::Boolean,
            "" => {
                if needed {
                    let message = "Required value: must not be empty for specified object fields";
                    self.wrong(&path, "FieldValueRequired", message);
                }
                return None;
            }
            other => {
                let message = format!("Unsupported value: \"{other}\"");
                self.wrong(&path, "FieldValueNotSupported", message);
                return None;
            }
        })
    }

    fn list(&mut self, json: &Value, path: &str) -> List {
        match text(json, &["x-kubernetes-list-type"]) {
            "map" => {
                let keys = texts(json, &["x-kubernetes-list-map-keys"]);
                if keys.is_empty() {
                    let path = format!("{path}.x-kubernetes-list-map-keys");
                    let message = "Required value: must not be empty if x-kubernetes-list-type is \
                                   map";
                    self.wrong(&path, "FieldValueRequired", message);
                }
                List::Map(keys)
            }
            "set" => List::Set,
            _ => List::Atomic,
        }
    }

    fn rules(&mut self, json: &Value, path: &str) -> Vec<Rule> {
        let rules = items(json, &["x-kubernetes-validations"])
            .iter()
            .enumerate();
        let rules = rules.filter_map(|(index, rule)| match Rule::compile(rule) {
            Ok(rule) => Some(rule),
            Err(error) => {
                let path = format!("{path}.x-kubernetes-validations[{index}].rule");
                let shown = &rule["rule"];
                let message = format!("compilation failed: {error}");
                self.causes.push(Cause::invalid(&path, shown, &message));
                None
            }
        });
        rules.collect()
    }

    fn checks(&mut self, json: &Value, path: &str) -> Checks {
        let number = |name: &str| json[name].as_f64();
        let bounds = |least: &str, most: &str| Bounds {
            least: json[least].as_u64(),
            most: json[most].as_u64(),
        };
        let flag = |name: &str| json[name] == Value::Bool(true);
        let pattern = json["pattern"].as_str().and_then(|pattern| {
            Regex::new(pattern)
                .map_err(|error| {
                    let path = format!("{path}.pattern");
                    let shown = Value::from(pattern);
                    self.causes
                        .push(Cause::invalid(&path, &shown, &error.to_string()));
                })
                .ok()
        });
        let mut several = |name: &str| -> Vec<Schema> {
            let below = items(json, &[name]).iter().enumerate();
            below
                .map(|(index, below)| self.schema(below, &format!("{path}.{name}[{index}]"), false))
                .collect()
        };
        let (all, any, one) = (several("allOf"), several("anyOf"), several("oneOf"));
        Checks {
            required: texts(json, &["required"]),
            values: items(json, &["enum"]).to_vec(),
            minimum: number("minimum"),
            maximum: number("maximum"),
            above: flag("exclusiveMinimum"),
            below: flag("exclusiveMaximum"),
            multiple: number("multipleOf"),
            pattern,
            length: bounds("minLength", "maxLength"),
            items: bounds("minItems", "maxItems"),
            properties: bounds("minProperties", "maxProperties"),
            unique: flag("uniqueItems"),
            all,
            any,
            one,
            not: json
                .get("not")
                .map(|below| Box::new(self.schema(below, &format!("{path}.not"), false))),
        }
    }
}

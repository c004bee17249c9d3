//! Structural schemas of custom resources.
//! <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>

mod compile;
mod fill;
mod validate;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use crate::cel::Rule;

/// A schema, or a part of one.
#[derive(Debug, Default)]
pub struct Schema {
    pub(crate) kind: Option<Type>,
    pub(crate) format: String,
    pub(crate) nullable: bool,
    pub(crate) int_or_string: bool,
    pub(crate) preserve: bool,
    pub(crate) embedded: bool,
    pub(crate) properties: BTreeMap<String, Schema>,
    pub(crate) additional: Option<Box<Schema>>,
    pub(crate) items: Option<Box<Schema>>,
    pub(crate) list: List,
    pub(crate) atomic_map: bool,
    pub(crate) default: Option<Value>,
    pub(crate) rules: Vec<Rule>,
    checks: Checks,
}

#[derive(Debug, Default)]
struct Checks {
    required: Vec<String>,
    values: Vec<Value>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    above: bool,
    below: bool,
    multiple: Option<f64>,
    pattern: Option<Regex>,
    length: Bounds,
    items: Bounds,
    properties: Bounds,
    unique: bool,
    all: Vec<Schema>,
    any: Vec<Schema>,
    one: Vec<Schema>,
    not: Option<Box<Schema>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Bounds {
    least: Option<u64>,
    most: Option<u64>,
}

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

/// How a list is merged.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) enum List {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

impl Type {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

impl Schema {
    /// The schema of the field `name` of a value of this one.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(self.additional.as_deref())
    }
}

#[cfg(test)]
mod tests;

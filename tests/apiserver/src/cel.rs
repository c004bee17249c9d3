//! Rules in the Common Expression Language.
//! <https://kubernetes.io/docs/reference/using-api/cel/>

mod scope;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::objects::Key;
use cel::{Context, Env, Program, Value as Cel, extensions};
use serde_json::Value;

use crate::failure::Cause;
use crate::object::text;
use crate::schema::{Schema, Type};

pub(crate) use scope::undeclared;

/// Longest expression, bytes.
const LIMIT: usize = 10 << 10;

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    for extension in [extensions::strings, extensions::lists, extensions::math] {
        // Only a name declared twice is refused, and these are each added once.
        if let Err(error) = env.add_extension(extension) {
            unreachable!("the extension does not fit the standard library: {error}");
        }
    }
    Arc::new(env)
});

/// Why an expression cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CelError {
    /// It is too long.
    #[error("the expression is longer than {LIMIT} bytes; split it")]
    TooLong,
    /// It cannot be parsed.
    #[error("{0}")]
    Parse(String),
    /// It failed.
    #[error("{0}")]
    Execution(String),
    /// Its value is of another type.
    #[error("the expression gives no {0}")]
    Type(&'static str),
}

/// An expression, ready to run.
pub(crate) struct Expression {
    source: String,
    program: Program,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl Expression {
    pub(crate) fn compile(source: &str) -> Result<Self, CelError> {
        if source.len() > LIMIT {
            return Err(CelError::TooLong);
        }
        let program = ENVIRONMENT
            .compile(source)
            .map_err(|errors| CelError::Parse(errors.to_string()))?;
        Ok(Self {
            source: source.to_owned(),
            program,
        })
    }

    pub(crate) fn uses(&self, variable: &str) -> bool {
        self.program.references().has_variable(variable)
    }

    pub(crate) fn run(&self, variables: &[(&str, Cel)]) -> Result<Cel, CelError> {
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        for (name, value) in variables {
            context.add_variable_from_value(*name, value.clone());
        }
        self.program
            .execute(&context)
            .map_err(|error| CelError::Execution(error.to_string()))
    }

    pub(crate) fn holds(&self, variables: &[(&str, Cel)]) -> Result<bool, CelError> {
        match self.run(variables)? {
            Cel::Bool(holds) => Ok(holds),
            _ => Err(CelError::Type("bool")),
        }
    }

    pub(crate) fn says(&self, variables: &[(&str, Cel)]) -> Result<String, CelError> {
        match self.run(variables)? {
            Cel::String(text) => Ok(text.as_str().to_owned()),
            _ => Err(CelError::Type("string")),
        }
    }
}

/// An entry of `x-kubernetes-validations`.
#[derive(Debug)]
pub(crate) struct Rule {
    rule: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: &'static str,
    field: String,
    /// Whether it speaks of a change.
    transition: bool,
    optional_old: bool,
}

impl Rule {
    pub(crate) fn compile(json: &Value) -> Result<Self, CelError> {
        let rule = Expression::compile(text(json, &["rule"]))?;
        let message_expression = match text(json, &["messageExpression"]) {
            "" => None,
            source => Some(Expression::compile(source)?),
        };
        let message = match text(json, &["message"]) {
            "" => format!("failed rule: {}", rule.source.trim()),
            message => message.to_owned(),
        };
        Ok(Self {
            transition: rule.uses("oldSelf"),
            optional_old: json["optionalOldSelf"] == Value::Bool(true),
            rule,
            message,
            message_expression,
            reason: match text(json, &["reason"]) {
                "FieldValueForbidden" => "FieldValueForbidden",
                "FieldValueRequired" => "FieldValueRequired",
                "FieldValueDuplicate" => "FieldValueDuplicate",
                _ => "FieldValueInvalid",
            },
            field: text(json, &["fieldPath"]).to_owned(),
        })
    }
}

/// Runs a rule; the cause's field is relative to the value.
pub(crate) fn check(
    rule: &Rule,
    schema: &Schema,
    value: &Value,
    old: Option<&Value>,
) -> Option<Cause> {
    if rule.transition && old.is_none() && !rule.optional_old {
        return None;
    }
    let mut variables = vec![("self", typed(schema, value))];
    if rule.transition {
        let old = old.map(|old| typed(schema, old));
        variables.push((
            "oldSelf",
            if rule.optional_old {
                optional(old)
            } else {
                old?
            },
        ));
    }
    let message = match rule.rule.holds(&variables) {
        Ok(true) => return None,
        Ok(false) => rule
            .message_expression
            .as_ref()
            .and_then(|expression| expression.says(&variables).ok())
            .unwrap_or_else(|| rule.message.clone()),
        Err(error) => format!("{error} evaluating rule: {}", rule.message),
    };
    let shown = schema.kind.map_or("", Type::name);
    let message = match rule.reason {
        "FieldValueForbidden" => format!("Forbidden: {message}"),
        "FieldValueRequired" => format!("Required value: {message}"),
        "FieldValueDuplicate" => format!("Duplicate value: \"{shown}\""),
        _ => format!("Invalid value: \"{shown}\": {message}"),
    };
    Some(Cause::new(&rule.field, rule.reason, message))
}

fn optional(value: Option<Cel>) -> Cel {
    use cel::objects::OptionalValue;
    Cel::Opaque(Arc::new(match value {
        Some(value) => OptionalValue::of(value),
        None => OptionalValue::none(),
    }))
}

/// A value as CEL sees it, without a schema.
pub(crate) fn plain(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Cel::Int(number),
            (None, Some(number)) => Cel::UInt(number),
            _ => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Cel::from(text.as_str()),
        Value::Array(list) => Cel::List(Arc::new(list.iter().map(plain).collect())),
        Value::Object(map) => entries(map.iter().map(|(key, value)| (key.clone(), plain(value)))),
    }
}

/// A value as CEL sees it, with the types its schema gives.
fn typed(schema: &Schema, value: &Value) -> Cel {
    match value {
        Value::Array(list) => match &schema.items {
            Some(items) => Cel::List(Arc::new(
                list.iter().map(|item| typed(items, item)).collect(),
            )),
            None => plain(value),
        },
        Value::Object(map) => entries(map.iter().map(|(key, value)| {
            if let Some(below) = schema.properties.get(key) {
                (escaped(key), typed(below, value))
            } else if let Some(below) = &schema.additional {
                (key.clone(), typed(below, value))
            } else {
                (key.clone(), plain(value))
            }
        })),
        Value::Number(number) if schema.kind == Some(Type::Number) => {
            Cel::Float(number.as_f64().unwrap_or(f64::NAN))
        }
        Value::String(text) => timed(&schema.format, text).unwrap_or_else(|| plain(value)),
        _ => plain(value),
    }
}

fn timed(format: &str, text: &str) -> Option<Cel> {
    match format {
        "date-time" => chrono::DateTime::parse_from_rfc3339(text)
            .ok()
            .map(Cel::Timestamp),
        "duration" => {
            let duration = humantime::parse_duration(text).ok()?;
            chrono::Duration::from_std(duration).ok().map(Cel::Duration)
        }
        _ => None,
    }
}

fn entries(entries: impl Iterator<Item = (String, Cel)>) -> Cel {
    let entries: HashMap<Key, Cel> = entries
        .map(|(key, value)| (Key::from(key), value))
        .collect();
    Cel::from(entries)
}

/// Words CEL keeps for itself.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// A property's name as rules write it.
fn escaped(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}

#[cfg(test)]
mod tests;

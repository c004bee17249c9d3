//! Whether an expression names only what there is. A real server checks types
//! too; names are what a typing mistake gets wrong.

use cel::IdedExpr;
use cel::common::ast::{EntryExpr, Expr};

use super::{Expression, Rule, escaped};
use crate::failure::Cause;
use crate::schema::{Schema, Type};

/// Types, and the first parts of functions' names.
const GLOBAL: [&str; 18] = [
    "int",
    "uint",
    "double",
    "bool",
    "string",
    "bytes",
    "list",
    "map",
    "type",
    "null_type",
    "dyn",
    "timestamp",
    "duration",
    "optional",
    "math",
    "base64",
    "google",
    "optional_type",
];

/// What a custom resource has outside of its schema.
const ALWAYS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// What is known of a value.
#[derive(Clone, Copy)]
enum View<'a> {
    Known(&'a Schema, Role),
    Metadata,
    Any,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Resource,
    Part,
}

type Scope<'a> = Vec<(String, View<'a>)>;

impl Expression {
    /// What is wrong with an expression that may use `variables`.
    pub(crate) fn undeclared(&self, variables: &[&str]) -> Option<String> {
        let scope = variables.iter().map(|name| ((*name).to_owned(), View::Any));
        view(self.program.expression(), &mut scope.collect()).err()
    }
}

impl Rule {
    fn undeclared(&self, view_of_self: View<'_>) -> Option<String> {
        let old = if self.optional_old {
            View::Any
        } else {
            view_of_self
        };
        let scope = [
            ("self".to_owned(), view_of_self),
            ("oldSelf".to_owned(), old),
        ];
        let all = [Some(&self.rule), self.message_expression.as_ref()];
        let mut all = all.into_iter().flatten();
        all.find_map(|expression| view(expression.program.expression(), &mut scope.to_vec()).err())
    }
}

/// The rules of the schema of a resource, at `path` of its definition, that name what there is
/// not.
pub(crate) fn undeclared(schema: &Schema, path: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    below(schema, path, Role::Resource, &mut causes);
    causes
}

fn below(schema: &Schema, path: &str, role: Role, causes: &mut Vec<Cause>) {
    for (index, rule) in schema.rules.iter().enumerate() {
        if let Some(error) = rule.undeclared(View::Known(schema, role)) {
            let path = format!("{path}.x-kubernetes-validations[{index}].rule");
            let shown = serde_json::Value::from(rule.rule.source.as_str());
            causes.push(Cause::invalid(
                &path,
                &shown,
                &format!("compilation failed: {error}"),
            ));
        }
    }
    for (name, schema) in &schema.properties {
        below(
            schema,
            &format!("{path}.properties[{name}]"),
            Role::Part,
            causes,
        );
    }
    if let Some(schema) = &schema.additional {
        below(
            schema,
            &format!("{path}.additionalProperties"),
            Role::Part,
            causes,
        );
    }
    if let Some(schema) = &schema.items {
        below(schema, &format!("{path}.items"), Role::Part, causes);
    }
}

fn view<'a>(expression: &IdedExpr, scope: &mut Scope<'a>) -> Result<View<'a>, String> {
    match &expression.expr {
        Expr::Ident(name) => {
            let found = scope.iter().rev().find(|(known, _)| known == name);
            match found {
                Some((_, view)) => Ok(*view),
                None if GLOBAL.contains(&name.as_str()) => Ok(View::Any),
                None => Err(format!("undeclared reference to '{name}'")),
            }
        }
        Expr::Select(select) => field(view(&select.operand, scope)?, &select.field),
        Expr::Call(call) => {
            if let Some(target) = &call.target {
                view(target, scope)?;
            }
            let arguments = call.args.iter().map(|argument| view(argument, scope));
            let arguments: Vec<_> = arguments.collect::<Result<_, _>>()?;
            Ok(match (call.func_name.as_str(), arguments.first()) {
                ("_[_]", Some(view)) => item(*view),
                _ => View::Any,
            })
        }
        Expr::List(list) => {
            list.elements
                .iter()
                .try_for_each(|element| view(element, scope).map(drop))?;
            Ok(View::Any)
        }
        Expr::Map(map) => {
            for entry in &map.entries {
                if let EntryExpr::MapEntry(entry) = &entry.expr {
                    view(&entry.key, scope)?;
                    view(&entry.value, scope)?;
                }
            }
            Ok(View::Any)
        }
        Expr::Comprehension(loops) => {
            let range = view(&loops.iter_range, scope)?;
            view(&loops.accu_init, scope)?;
            let outside = scope.len();
            // Of a list it is the item, of a map the key.
            let each = match range {
                View::Known(schema, _) if schema.kind == Some(Type::Array) => item(range),
                _ => View::Any,
            };
            scope.push((loops.iter_var.clone(), each));
            scope.extend(loops.iter_var2.clone().map(|name| (name, View::Any)));
            scope.push((loops.accu_var.clone(), View::Any));
            for part in [&loops.loop_cond, &loops.loop_step, &loops.result] {
                view(part, scope)?;
            }
            scope.truncate(outside);
            Ok(View::Any)
        }
        Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => Ok(View::Any),
    }
}

fn field<'a>(of: View<'a>, name: &str) -> Result<View<'a>, String> {
    let undefined = || Err(format!("undefined field '{name}'"));
    let (schema, role) = match of {
        View::Any => return Ok(View::Any),
        View::Metadata if matches!(name, "name" | "generateName") => return Ok(View::Any),
        View::Metadata => return undefined(),
        View::Known(schema, role) => (schema, role),
    };
    if (role == Role::Resource || schema.embedded) && ALWAYS.contains(&name) {
        return Ok(if name == "metadata" {
            View::Metadata
        } else {
            View::Any
        });
    }
    let property = schema
        .properties
        .iter()
        .find(|(own, _)| escaped(own) == name);
    match (property, &schema.additional) {
        (Some((_, below)), _) => Ok(View::Known(below, Role::Part)),
        (None, Some(below)) => Ok(View::Known(below, Role::Part)),
        (None, None) => match schema.kind {
            None => Ok(View::Any),
            // Also where unknown fields are kept: no rule can name those.
            Some(Type::Object) => undefined(),
            Some(kind) => Err(format!(
                "type '{}' does not support field selection",
                kind.name()
            )),
        },
    }
}

fn item(of: View<'_>) -> View<'_> {
    match of {
        View::Known(schema, _) => schema
            .items
            .as_deref()
            .or(schema.additional.as_deref())
            .map_or(View::Any, |below| View::Known(below, Role::Part)),
        _ => View::Any,
    }
}

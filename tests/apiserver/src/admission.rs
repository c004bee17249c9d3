//! Validating admission policies.
//! <https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/>

use std::sync::Arc;

use cel::Value as Cel;
use serde_json::{Value, json};

use crate::cel::{Expression, plain};
use crate::cluster::{Cluster, Target};
use crate::failure::{Cause, Failure};
use crate::object::{at, items, name, text, texts};
use crate::query::Query;
use crate::rbac::User;
use crate::resource::{ADMISSION, POLICIES, POLICY_BINDINGS};
use crate::selector::LabelSelector;
use crate::store::{Kind, Name};

impl Cluster {
    /// Asks the policies that are bound and match.
    pub(crate) fn admit(
        &self,
        target: &Target,
        object: &Value,
        old: Option<&Value>,
        query: &Query,
    ) -> Result<(), Failure> {
        let kind = |plural: &str| Kind {
            group: ADMISSION.into(),
            plural: plural.into(),
        };
        for (_, binding) in self.store.list(&kind(POLICY_BINDINGS), "") {
            let key = Name {
                namespace: String::new(),
                name: text(binding, &["spec", "policyName"]).into(),
            };
            let denies = texts(binding, &["spec", "validationActions"])
                .iter()
                .any(|action| action == "Deny");
            let Some(policy) = self.store.get(&kind(POLICIES), &key).filter(|_| denies) else {
                continue;
            };
            let request = Request {
                target,
                object,
                old,
                operation: if old.is_some() { "UPDATE" } else { "CREATE" },
                user: user_info(&query.user),
                namespace: self.namespace_of(target),
            };
            if request.constrained(&policy["spec"]["matchConstraints"])
                && request.selected(&binding["spec"]["matchResources"])
            {
                request.judge(policy, name(binding))?;
            }
        }
        Ok(())
    }

    fn namespace_of(&self, target: &Target) -> Option<Arc<Value>> {
        let kind = Kind {
            group: String::new(),
            plural: "namespaces".into(),
        };
        let key = Name {
            namespace: String::new(),
            name: target.namespace.clone(),
        };
        self.store.get(&kind, &key).cloned()
    }
}

/// What the expressions of a policy may name.
const NAMES: [&str; 7] = [
    "object",
    "oldObject",
    "request",
    "namespaceObject",
    "variables",
    "params",
    "authorizer",
];

/// The expressions of a policy that cannot run.
pub(crate) fn wrong(policy: &Value) -> Vec<Cause> {
    let lists = [
        ("matchConditions", "expression"),
        ("variables", "expression"),
        ("validations", "expression"),
        ("validations", "messageExpression"),
    ];
    let mut causes = Vec::new();
    for (list, field) in lists {
        for (index, item) in items(policy, &["spec", list]).iter().enumerate() {
            let source = text(item, &[field]);
            if source.is_empty() {
                continue;
            }
            let error = match Expression::compile(source) {
                Ok(found) => found.undeclared(&NAMES),
                Err(error) => Some(error.to_string()),
            };
            causes.extend(error.map(|error| {
                let path = format!("spec.{list}[{index}].{field}");
                let message = format!("compilation failed: {error}");
                Cause::invalid(&path, &Value::from(source), &message)
            }));
        }
    }
    causes
}

/// Who asks, without what a token says beside the name.
fn user_info((name, groups): &(String, Vec<String>)) -> Value {
    if name.is_empty() {
        let User { name, groups } = User::named(None, Vec::new());
        return json!({ "username": name, "groups": groups, "extra": {} });
    }
    json!({ "username": name, "groups": groups, "extra": {} })
}

struct Request<'a> {
    target: &'a Target,
    object: &'a Value,
    old: Option<&'a Value>,
    operation: &'static str,
    user: Value,
    namespace: Option<Arc<Value>>,
}

impl Request<'_> {
    fn constrained(&self, constraints: &Value) -> bool {
        let named = |rule: &Value| {
            let any = |field: &str, wanted: &str| {
                let values = texts(rule, &[field]);
                values.iter().any(|value| value == "*" || value == wanted)
            };
            let resource = &self.target.resource;
            let plural = match self.target.subresource.as_str() {
                "" => resource.plural.clone(),
                subresource => format!("{}/{subresource}", resource.plural),
            };
            any("apiGroups", &resource.group)
                && any("apiVersions", &resource.version)
                && any("resources", &plural)
                && any("operations", self.operation)
        };
        items(constraints, &["resourceRules"]).iter().any(named)
            && !items(constraints, &["excludeResourceRules"])
                .iter()
                .any(named)
            && self.selected(constraints)
    }

    fn selected(&self, by: &Value) -> bool {
        let fits = |field: &str, object: Option<&Value>| match (by.get(field), object) {
            (Some(selector), Some(object)) => {
                LabelSelector::from_object(selector).is_ok_and(|found| found.matches(object))
            }
            _ => true,
        };
        fits("objectSelector", Some(self.object))
            && fits("namespaceSelector", self.namespace.as_deref())
    }

    fn variables(&self) -> Vec<(&'static str, Cel)> {
        let resource = &self.target.resource;
        let request = json!({
            "operation": self.operation, "name": self.target.name,
            "namespace": self.target.namespace, "subResource": self.target.subresource,
            "userInfo": self.user,
            "resource": {
                "group": resource.group, "version": resource.version, "resource": resource.plural,
            },
            "kind": {
                "group": resource.group, "version": resource.version, "kind": resource.kind,
            },
        });
        let namespace = self.namespace.as_deref();
        vec![
            ("object", plain(self.object)),
            ("oldObject", plain(self.old.unwrap_or(&Value::Null))),
            ("namespaceObject", plain(namespace.unwrap_or(&Value::Null))),
            ("request", plain(&request)),
        ]
    }

    fn judge(&self, policy: &Value, binding: &str) -> Result<(), Failure> {
        let ignore = text(policy, &["spec", "failurePolicy"]) == "Ignore";
        let mut variables = self.variables();
        let broken = |error: String| match ignore {
            true => Ok(()),
            false => Err(self.denied(policy, binding, &error, "Invalid")),
        };
        for condition in items(policy, &["spec", "matchConditions"]) {
            match holds(text(condition, &["expression"]), &variables) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => return broken(error),
            }
        }
        define(policy, &mut variables);
        for validation in items(policy, &["spec", "validations"]) {
            let expression = text(validation, &["expression"]);
            match holds(expression, &variables) {
                Ok(true) => {}
                Err(error) => broken(format!(
                    "expression '{expression}' resulted in error: {error}"
                ))?,
                Ok(false) => {
                    let message = message(validation, &variables);
                    let reason = text(validation, &["reason"]);
                    return Err(self.denied(policy, binding, &message, reason));
                }
            }
        }
        Ok(())
    }

    fn denied(&self, policy: &Value, binding: &str, message: &str, reason: &str) -> Failure {
        let why = format!(
            "ValidatingAdmissionPolicy '{}' with binding '{binding}' denied request: {message}",
            name(policy)
        );
        let mut failure = Failure::forbidden(&self.target.resource, &self.target.name, &why);
        (failure.code, failure.reason) = match reason {
            "Forbidden" => (403, "Forbidden"),
            "Unauthorized" => (401, "Unauthorized"),
            "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
            _ => (422, "Invalid"),
        };
        failure
    }
}

/// Makes `variables.NAME`, each of which may use those before it.
fn define(policy: &Value, variables: &mut Vec<(&'static str, Cel)>) {
    let mut own: std::collections::HashMap<String, Cel> = std::collections::HashMap::new();
    for variable in items(policy, &["spec", "variables"]) {
        variables.retain(|(name, _)| *name != "variables");
        variables.push(("variables", Cel::from(own.clone())));
        let expression = Expression::compile(text(variable, &["expression"]));
        // One that fails is missing, so that what uses it fails.
        if let Some(value) = expression.ok().and_then(|found| found.run(variables).ok()) {
            own.insert(text(variable, &["name"]).into(), value);
        }
    }
    variables.retain(|(name, _)| *name != "variables");
    variables.push(("variables", Cel::from(own)));
}

fn holds(expression: &str, variables: &[(&str, Cel)]) -> Result<bool, String> {
    Expression::compile(expression)
        .and_then(|found| found.holds(variables))
        .map_err(|error| error.to_string())
}

fn message(validation: &Value, variables: &[(&str, Cel)]) -> String {
    let said = match text(validation, &["messageExpression"]) {
        "" => None,
        source => Expression::compile(source)
            .and_then(|found| found.says(variables))
            .ok(),
    };
    let fixed = at(validation, &["message"]).and_then(Value::as_str);
    said.or_else(|| fixed.map(str::to_owned))
        .unwrap_or_else(|| {
            format!(
                "failed expression: {}",
                text(validation, &["expression"]).trim()
            )
        })
}

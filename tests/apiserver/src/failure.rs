//! What the server answers when it does not do what it was asked.

use serde_json::{Value, json};

use crate::resource::Resource;

/// A refusal, as `metav1.Status` tells it.
/// <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/>
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason.
    pub reason: &'static str,
    /// What people read.
    pub message: String,
    /// Name, group and kind of the object, and causes; null where there are none.
    pub details: Value,
}

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Path of the field, as in `spec.items[0].name`.
    pub field: String,
    /// For instance `FieldValueInvalid`.
    pub reason: &'static str,
    /// What is wrong with it.
    pub message: String,
}

impl Cause {
    /// A cause of the reason `FieldValueInvalid`, with the value shown.
    pub(crate) fn invalid(field: &str, value: &Value, message: &str) -> Self {
        Self {
            field: field.to_owned(),
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {value}: {message}"),
        }
    }

    /// A cause whose message is complete.
    pub(crate) fn new(field: &str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            reason,
            message: message.into(),
        }
    }
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
        }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details = json!({
            "name": name, "group": resource.group, "kind": resource.plural
        });
        self
    }

    /// 400: the request cannot be understood.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 404 for an object.
    #[must_use]
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::new(404, "NotFound", message).about(resource, name)
    }

    /// 404 for a path.
    #[must_use]
    pub fn no_such_path() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// 405.
    #[must_use]
    pub fn not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 406.
    #[must_use]
    pub fn not_acceptable() -> Self {
        Self::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json",
        )
    }

    /// 415.
    #[must_use]
    pub fn unsupported_media(kind: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - {kind} is not supported here"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 409 for a name that is taken.
    #[must_use]
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(409, "AlreadyExists", message).about(resource, name)
    }

    /// 409 for an object that is not as the request expects it.
    #[must_use]
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            resource.qualified()
        );
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// 409 for an object that has changed meanwhile.
    #[must_use]
    pub fn stale(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and \
             try again",
        )
    }

    /// 409 for fields of other appliers.
    #[must_use]
    pub fn apply_conflicts(causes: &[Cause]) -> Self {
        let list: Vec<_> = causes
            .iter()
            .map(|cause| format!("{}: {}", cause.message, cause.field))
            .collect();
        let count = match causes.len() {
            1 => "1 conflict".to_owned(),
            more => format!("{more} conflicts"),
        };
        let message = format!("Apply failed with {count}: {}", list.join(", "));
        let mut failure = Self::new(409, "Conflict", message);
        failure.details = json!({ "causes": shown(causes) });
        failure
    }

    /// 410: the version asked for is no longer known.
    #[must_use]
    pub fn expired(asked: u64, oldest: u64) -> Self {
        let message = format!("too old resource version: {asked} ({oldest})");
        Self::new(410, "Expired", message)
    }

    /// 403.
    #[must_use]
    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", resource.qualified());
        Self::new(403, "Forbidden", message).about(resource, name)
    }

    /// 403 for a whole kind or a path.
    #[must_use]
    pub fn forbidden_text(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    /// 422 with what is wrong with each field.
    #[must_use]
    pub fn invalid(resource: &Resource, name: &str, causes: &[Cause]) -> Self {
        let kind = match resource.group.as_str() {
            "" => resource.kind.clone(),
            group => format!("{}.{group}", resource.kind),
        };
        let list: Vec<_> = causes
            .iter()
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .collect();
        let list = match list.as_slice() {
            [one] => one.clone(),
            more => format!("[{}]", more.join(", ")),
        };
        let mut failure = Self::new(
            422,
            "Invalid",
            format!("{kind} \"{name}\" is invalid: {list}"),
        );
        failure.details = json!({
            "name": name, "group": resource.group, "kind": resource.kind,
            "causes": shown(causes),
        });
        failure
    }

    /// 422 without fields.
    #[must_use]
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    /// 429: a disruption budget forbids an eviction.
    #[must_use]
    pub fn disruption(message: impl Into<String>) -> Self {
        Self::new(429, "TooManyRequests", message)
    }

    /// What a fault gives.
    #[must_use]
    pub fn injected(code: u16, retry_after: Option<u32>) -> Self {
        let reason = match code {
            403 => "Forbidden",
            404 => "NotFound",
            409 => "Conflict",
            410 => "Expired",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "InternalError",
        };
        let mut failure = Self::new(code, reason, format!("injected fault: {code}"));
        if let Some(seconds) = retry_after {
            failure.details = json!({ "retryAfterSeconds": seconds });
        }
        failure
    }

    /// The `Status` object.
    #[must_use]
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }

    /// Seconds after which the client may try again.
    #[must_use]
    pub fn retry_after(&self) -> Option<u64> {
        self.details
            .get("retryAfterSeconds")
            .and_then(Value::as_u64)
    }
}

fn shown(causes: &[Cause]) -> Vec<Value> {
    causes
        .iter()
        .map(|cause| {
            json!({ "field": cause.field, "reason": cause.reason, "message": cause.message })
        })
        .collect()
}

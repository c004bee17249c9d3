//! Secrets are left out of what leaves the cluster.

use serde_json::Value;

/// What stands for a text that was left out.
const REDACTED: &str = "REDACTED";
/// Words in the names of things that are secret.
const SECRET: [&str; 6] = [
    "password",
    "passwd",
    "token",
    "credential",
    "authorization",
    "apikey",
];

fn secret(name: &str) -> bool {
    let name = name.to_lowercase().replace(['-', '_'], "");
    SECRET.iter().any(|word| name.contains(word))
}

/// Takes out the values of environment variables, texts under secret names,
/// what arguments say after secret names, passwords in addresses, and copies
/// of whole objects.
pub(crate) fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("managedFields");
            fields.remove("kubectl.kubernetes.io/last-applied-configuration");
            for (name, field) in fields.iter_mut() {
                match name.as_str() {
                    "env" => variables(field),
                    "args" | "command" => arguments(field),
                    name if secret(name) && field.is_string() => *field = REDACTED.into(),
                    _ => redact(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::String(text) => address(text),
        _ => {}
    }
}

fn variables(list: &mut Value) {
    for variable in list.as_array_mut().into_iter().flatten() {
        match variable.get_mut("value") {
            Some(value) => *value = REDACTED.into(),
            None => redact(variable),
        }
    }
}

fn arguments(list: &mut Value) {
    let mut next = false;
    for argument in list.as_array_mut().into_iter().flatten() {
        let Value::String(text) = argument else {
            continue;
        };
        if std::mem::take(&mut next) && !text.starts_with('-') {
            *text = REDACTED.into();
        } else if let Some((name, _)) = text.split_once('=').filter(|(name, _)| secret(name)) {
            *text = format!("{name}={REDACTED}");
        } else {
            next = text.starts_with('-') && secret(text);
            address(text);
        }
    }
}

/// `scheme://user:password@host` without the user.
fn address(text: &mut String) {
    let Some(begin) = text.find("://").map(|at| at + 3) else {
        return;
    };
    let rest = &text[begin..];
    let end = rest.find(['/', ' ']).unwrap_or(rest.len());
    if let Some(at) = rest[..end].rfind('@') {
        text.replace_range(begin..begin + at, REDACTED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn no_secret_is_left() {
        let mut pod = json!({
            "metadata": { "managedFields": [{}], "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "s3cret" } },
            "spec": { "containers": [{
                "args": ["--token", "s3cret", "--password=s3cret", "--api-key=s3cret", "-v",
                    "https://user:s3cret@host/path", "--level=info"],
                "env": [{ "name": "A", "value": "s3cret" },
                    { "name": "B", "valueFrom": { "secretKeyRef": { "name": "x", "key": "y" } } }],
                "bearerToken": "s3cret",
            }], "serviceAccountName": "kept" },
        });
        redact(&mut pod);
        let text = pod.to_string();
        assert!(!text.contains("s3cret"), "{text}");
        for kept in ["--level=info", "host/path", "kept", "secretKeyRef", "-v"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }
}

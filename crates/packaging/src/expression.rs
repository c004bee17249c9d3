//! Texts of the manifests as Go template expressions.

use serde_json::Value;

use crate::source::NAMESPACE;

/// What is written in the manifests, and the expression for it.
const PLACES: [(&str, &str); 2] = [
    (NAMESPACE, ".Release.Namespace"),
    (r#"["kata"]"#, "(toJson .Values.policies.classes)"),
];

/// The expression whose value a text is in a release; none: it is the text
/// itself, and nothing Helm would take for a template.
pub(crate) fn of(text: &str) -> Option<String> {
    let mut arguments = Vec::new();
    let mut format = String::new();
    let mut rest = text;
    while let Some((at, written, expression)) = first(rest) {
        format.push_str(&rest[..at].replace('%', "%%"));
        format.push_str("%s");
        arguments.push(expression);
        rest = &rest[at + written.len()..];
    }
    if arguments.is_empty() {
        return text.contains("{{").then(|| literal(text));
    }
    if arguments.len() == 1 && format == "%s" && rest.is_empty() {
        return Some(arguments[0].to_owned());
    }
    format.push_str(&rest.replace('%', "%%"));
    Some(format!(
        "printf {} {}",
        literal(&format),
        arguments.join(" ")
    ))
}

fn first(text: &str) -> Option<(usize, &'static str, &'static str)> {
    let found = PLACES
        .iter()
        .filter_map(|(written, expression)| Some((text.find(written)?, *written, *expression)));
    found.min_by_key(|(at, ..)| *at)
}

/// A JSON string is a Go string, too.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_release_may_change_becomes_an_expression() {
        assert_eq!(of("default"), None);
        assert_eq!(of("bulkhead-system").as_deref(), Some(".Release.Namespace"));
        assert_eq!(
            of("100 % of x:bulkhead-system:y").as_deref(),
            Some(r#"printf "100 %% of x:%s:y" .Release.Namespace"#)
        );
        assert_eq!(
            of(r#"a in ["kata"]"#).as_deref(),
            Some(r#"printf "a in %s" (toJson .Values.policies.classes)"#)
        );
        assert_eq!(of("{{ $x }} \"").as_deref(), Some(r#""{{ $x }} \"""#));
    }
}

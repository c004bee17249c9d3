//! Custom resource definitions.
//! <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/>

use serde_json::Value;

use super::{Column, Resource};
use crate::failure::Cause;
use crate::object::{at, items, text, texts};
use crate::schema::Schema;

/// Most versions of a definition that are read.
const VERSIONS: usize = 16;

/// The kinds a definition makes, one for each version served, the one that is stored first.
///
/// # Errors
/// Everything that is wrong with the definition.
pub fn from_definition(definition: &Value) -> Result<Vec<Resource>, Vec<Cause>> {
    let spec = definition.get("spec").unwrap_or(&Value::Null);
    let mut causes = Vec::new();
    for field in [
        &["group"][..],
        &["names", "plural"],
        &["names", "kind"],
        &["scope"],
    ] {
        if text(spec, field).is_empty() {
            let field = format!("spec.{}", field.join("."));
            causes.push(Cause::new(&field, "FieldValueRequired", "Required value"));
        }
    }
    let (group, plural) = (text(spec, &["group"]), text(spec, &["names", "plural"]));
    if crate::object::name(definition) != format!("{plural}.{group}") {
        let message = "must be spec.names.plural+\".\"+spec.group";
        let name = Value::from(crate::object::name(definition));
        causes.push(Cause::invalid("metadata.name", &name, message));
    }
    let versions = items(spec, &["versions"]);
    let stored = |version: &&Value| version["storage"] == Value::Bool(true);
    if versions.iter().filter(stored).count() != 1 || versions.len() > VERSIONS {
        let message = "must have exactly one version marked as storage version";
        let shown = Value::from(versions.len());
        causes.push(Cause::invalid("spec.versions", &shown, message));
    }
    let mut made = Vec::new();
    for (index, version) in versions.iter().enumerate().take(VERSIONS) {
        let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
        match at(version, &["schema", "openAPIV3Schema"]) {
            None => causes.push(Cause::new(&path, "FieldValueRequired", "Required value")),
            Some(schema) => match Schema::compile(schema, &path) {
                Err(more) => causes.extend(more),
                Ok(schema) => made.push((version, resource(spec, version, schema))),
            },
        }
    }
    if !causes.is_empty() {
        return Err(causes);
    }
    made.retain(|(version, _)| version["served"] == Value::Bool(true));
    made.sort_by_key(|(version, _)| version["storage"] != Value::Bool(true));
    Ok(made.into_iter().map(|(_, resource)| resource).collect())
}

fn resource(spec: &Value, version: &Value, schema: Schema) -> Resource {
    let kind = text(spec, &["names", "kind"]).to_owned();
    let or = |path: &[&str], other: String| match text(spec, path) {
        "" => other,
        text => text.to_owned(),
    };
    Resource {
        group: text(spec, &["group"]).into(),
        version: text(version, &["name"]).into(),
        plural: text(spec, &["names", "plural"]).into(),
        singular: or(&["names", "singular"], kind.to_lowercase()),
        list_kind: or(&["names", "listKind"], format!("{kind}List")),
        kind,
        namespaced: text(spec, &["scope"]) == "Namespaced",
        short_names: texts(spec, &["names", "shortNames"]),
        categories: texts(spec, &["names", "categories"]),
        status: at(version, &["subresources", "status"]).is_some(),
        custom: true,
        generation: true,
        columns: items(version, &["additionalPrinterColumns"])
            .iter()
            .map(column)
            .collect(),
        schema: Some(schema),
    }
}

fn column(column: &Value) -> Column {
    Column {
        name: text(column, &["name"]).into(),
        kind: text(column, &["type"]).into(),
        format: text(column, &["format"]).into(),
        description: text(column, &["description"]).into(),
        priority: column["priority"].as_i64().unwrap_or_default(),
        path: text(column, &["jsonPath"]).into(),
    }
}

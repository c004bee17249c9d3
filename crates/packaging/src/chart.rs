//! The Helm chart: the manifests, with expressions where a release may differ.

use serde_json::{Map, Value, json};

use crate::settings::{SETTINGS, SWITCHES, Setting, Site};
use crate::source::{Object, Source, yaml};
use crate::{Error, Files, expression};

const HEAD: &str = "Generated from deploy/ by `cargo xtask deploy`.";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a Kubernetes of the chart has to be: the policies' version.
const KUBERNETES: &str = ">=1.30.0-0";

pub(crate) fn render(source: &Source) -> Result<Files, Error> {
    let mut files = Files::new();
    let mut add = |name: &str, text: String| {
        files.insert(format!("chart/bulkhead/{name}").into(), text);
    };
    add("Chart.yaml", about()?);
    add("values.yaml", values(source)?);
    add("values.schema.json", schema()?);
    for (file, text) in &source.crds {
        add(file, text.clone());
    }
    for file in source.files() {
        let name = format!("templates/{}", file.replace('/', "-"));
        add(&name, template(source, file)?);
    }
    for (name, text) in &source.dashboards {
        add(&format!("dashboards/{name}"), text.clone());
    }
    add("templates/grafana-dashboards.yaml", dashboards(source));
    add("templates/NOTES.txt", NOTES.to_owned());
    Ok(files)
}

const NOTES: &str =
    "Bulkhead's operator is there. Nothing is installed on nodes before a KataConfig asks for it:

  kubectl apply -f deploy/samples/kataconfig.yaml
  kubectl wait --for=condition=Ready kataconfig/example-kataconfig --timeout=30m

The namespace has to allow privileged pods where Pod Security is enforced:

  kubectl label namespace {{ .Release.Namespace }} pod-security.kubernetes.io/enforce=privileged
";

fn about() -> Result<String, Error> {
    let about = json!({
        "apiVersion": "v2",
        "name": "bulkhead",
        "description": "Every pod in a virtual machine of its own, installed on nodes by an operator",
        "type": "application",
        "version": VERSION,
        "appVersion": VERSION,
        "kubeVersion": KUBERNETES,
        "keywords": ["kata", "runtimeclass", "sandbox", "virtual machine"],
    });
    Ok(format!("# {HEAD}\n{}", yaml(&about)?))
}

/// The objects of one file.
fn template(source: &Source, file: &str) -> Result<String, Error> {
    let mut text = format!("{{{{- /* {HEAD} */}}}}\n");
    let condition = condition(file);
    if let Some(condition) = &condition {
        text.push_str(&format!("{{{{- if {condition} }}}}\n"));
    }
    for object in source.objects.iter().filter(|object| object.file == file) {
        // A release's namespace is its user's to make.
        if object.text("/kind") != "Namespace" {
            text.push_str("---\n");
            text.push_str(&body(object)?);
        }
    }
    if condition.is_some() {
        text.push_str("{{- end }}\n");
    }
    Ok(text)
}

fn condition(file: &str) -> Option<String> {
    let mut switches = SWITCHES
        .iter()
        .filter(|switch| switch.files.contains(&file));
    switches.next().map(|switch| match switch.also {
        None => format!(".Values.{}", switch.path),
        Some(also) => format!("or .Values.{} {also}", switch.path),
    })
}

/// One object with its expressions.
fn body(object: &Object) -> Result<String, Error> {
    let mut marks = Marks::default();
    let mut value = object.value.clone();
    for setting in SETTINGS {
        for (kind, name, pointer) in setting.sites {
            if object.is(kind, name) {
                let mark = marks.put(format!(".Values.{}", setting.path));
                put(&mut value, pointer, mark).ok_or_else(|| no_site(setting, pointer))?;
            }
        }
    }
    marks.texts(&mut value);
    Ok(marks.solve(yaml(&value)?))
}

/// Writes to where a pointer leads, also to a key that is not there yet.
fn put(value: &mut Value, pointer: &str, new: Value) -> Option<()> {
    let (parent, key) = pointer.rsplit_once('/')?;
    let parent = value.pointer_mut(parent)?.as_object_mut()?;
    parent.insert(key.to_owned(), new);
    Some(())
}

fn no_site(setting: &Setting, site: &str) -> Error {
    Error::NoSite {
        setting: setting.path.to_owned(),
        site: site.to_owned(),
    }
}

/// Scalars that stand for expressions while YAML is written: an expression
/// itself would be quoted.
#[derive(Debug, Default)]
struct Marks(Vec<String>);

impl Marks {
    fn put(&mut self, expression: String) -> Value {
        self.0.push(expression);
        Value::from(mark(self.0.len() - 1))
    }

    fn texts(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(expression) = expression::of(text) {
                    *value = self.put(expression);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.texts(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.texts(field)),
            _ => {}
        }
    }

    /// Every value goes through `toJson`, so that none can be more than one.
    fn solve(&self, mut text: String) -> String {
        for (number, expression) in self.0.iter().enumerate().rev() {
            let solved = format!("{{{{ {expression} | toJson }}}}");
            text = text.replace(&mark(number), &solved);
        }
        text
    }
}

fn mark(number: usize) -> String {
    format!("EXPRESSION-{number:04}-HERE")
}

fn dashboards(source: &Source) -> String {
    let mut text = format!(
        "{{{{- /* {HEAD} */}}}}\n{{{{- if {} }}}}\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  \
         labels:\n    grafana_dashboard: \"1\"\n  name: bulkhead-dashboards\n  \
         namespace: {{{{ .Release.Namespace | toJson }}}}\ndata:\n",
        condition("grafana").unwrap_or_default()
    );
    for (name, _) in &source.dashboards {
        let read = format!("{{{{ .Files.Get \"dashboards/{name}\" | toJson }}}}");
        text.push_str(&format!("  {name}: {read}\n"));
    }
    text.push_str("{{- end }}\n");
    text
}

/// What a setting is when a release says nothing: what all its sites are.
fn default(source: &Source, setting: &Setting) -> Result<Value, Error> {
    let absent = setting.absent.map(json_of).transpose()?;
    let mut value = absent.clone();
    for (kind, name, pointer) in setting.sites {
        let object = source.find(kind, name)?;
        let here = object.value.pointer(pointer).cloned().or(absent.clone());
        let shown = |(kind, name, pointer): &Site| format!("{kind} {name} {pointer}");
        let here = here.ok_or_else(|| no_site(setting, &shown(&(kind, name, pointer))))?;
        if value.is_some_and(|value| value != here) {
            return Err(Error::Differs {
                setting: setting.path.to_owned(),
            });
        }
        value = Some(here);
    }
    value.ok_or_else(|| no_site(setting, "nothing"))
}

/// Path, help, default and schema of everything a release can say.
fn rows(source: Option<&Source>) -> Result<Vec<(&'static str, &'static str, Value, Value)>, Error> {
    let mut rows = Vec::new();
    for switch in SWITCHES {
        let schema = json!({ "type": "boolean" });
        rows.push((switch.path, switch.help, switch.default.into(), schema));
    }
    for setting in SETTINGS {
        let default = match source {
            Some(source) => default(source, setting)?,
            None => Value::Null,
        };
        let schema = json_of(setting.schema)?;
        rows.push((setting.path, setting.help, default, schema));
    }
    // Sections together: a stable sort keeps the tables' order in each.
    rows.sort_by_key(|(path, ..)| path.split('.').next());
    Ok(rows)
}

fn values(source: &Source) -> Result<String, Error> {
    let mut text = format!("# {HEAD}\n");
    let mut section = "";
    for (path, help, mut value, _) in rows(Some(source))? {
        let (of, key) = path.split_once('.').unwrap_or(("", path));
        if of != section && !of.is_empty() {
            text.push_str(&format!("{of}:\n"));
            section = of;
        }
        let indent = if of.is_empty() { "" } else { "  " };
        value.sort_all_objects();
        text.push_str(&format!("{indent}# {help}\n{indent}{key}: {value}\n"));
    }
    Ok(text)
}

fn schema() -> Result<String, Error> {
    let mut properties = Map::new();
    for (path, help, _, mut schema) in rows(None)? {
        schema["description"] = help.into();
        match path.split_once('.') {
            None => {
                properties.insert(path.to_owned(), schema);
            }
            Some((section, key)) => {
                let section = properties.entry(section).or_insert_with(
                    || json!({ "type": "object", "additionalProperties": false, "properties": {} }),
                );
                section["properties"][key] = schema;
            }
        }
    }
    // Helm's own, of charts that contain this one.
    properties.insert("global".to_owned(), json!({ "type": "object" }));
    let mut schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    schema.sort_all_objects();
    Ok(format!("{schema:#}\n"))
}

fn json_of(text: &str) -> Result<Value, Error> {
    serde_json::from_str(text).map_err(|error| Error::Syntax {
        file: "settings.rs".to_owned(),
        reason: error.to_string(),
    })
}

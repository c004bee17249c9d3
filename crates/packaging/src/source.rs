//! The manifests people write.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::{Error, failed};

/// Namespace of all that has one of ours, in the manifests.
pub(crate) const NAMESPACE: &str = "bulkhead-system";

/// The files with objects, below `deploy/`.
const FILES: [&str; 16] = [
    "crds/kataconfigs.yaml",
    "crds/katanodes.yaml",
    "operator/rbac.yaml",
    "operator/deployment.yaml",
    "operator/network.yaml",
    "node-agent/rbac.yaml",
    "node-agent/policy.yaml",
    "node-agent/daemonset.yaml",
    "node-agent/network.yaml",
    "monitor/daemonset.yaml",
    "monitor/network.yaml",
    "policies/host-namespaces.yaml",
    "policies/doubtful.yaml",
    "policies/required-class.yaml",
    "openshift/scc.yaml",
    "prometheus/monitors.yaml",
];

/// Those whose comments go with them: alerts.
const RULES: &str = "prometheus/rules.yaml";

/// Dashboards, which are no objects.
const DASHBOARDS: [&str; 2] = ["grafana/fleet.json", "grafana/pod.json"];

/// One object, and where it is written.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) file: &'static str,
    pub(crate) value: Value,
}

impl Object {
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.value
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    pub(crate) fn is(&self, kind: &str, name: &str) -> bool {
        self.text("/kind") == kind && self.text("/metadata/name") == name
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) objects: Vec<Object>,
    /// Texts of the definitions, by file.
    pub(crate) crds: Vec<(&'static str, String)>,
    /// Names without a directory, and texts.
    pub(crate) dashboards: Vec<(&'static str, String)>,
    /// The example of the documentation.
    pub(crate) sample: Value,
}

impl Source {
    pub(crate) fn read(deploy: &Path) -> Result<Self, Error> {
        let read = |file: &str| {
            let path = deploy.join(file);
            std::fs::read_to_string(&path).map_err(failed(&path))
        };
        let mut source = Self {
            objects: Vec::new(),
            crds: Vec::new(),
            dashboards: Vec::new(),
            sample: parse("samples/kataconfig.yaml", &read("samples/kataconfig.yaml")?)?,
        };
        for file in FILES.into_iter().chain([RULES]) {
            let text = read(file)?;
            for part in text.split("\n---\n") {
                let value = parse(file, part)?;
                source.objects.push(Object { file, value });
            }
            if file.starts_with("crds/") {
                source.crds.push((file, text));
            }
        }
        for file in DASHBOARDS {
            let name = file.rsplit('/').next().unwrap_or(file);
            source.dashboards.push((name, read(file)?));
        }
        Ok(source)
    }

    pub(crate) fn find(&self, kind: &'static str, name: &str) -> Result<&Object, Error> {
        let mut found = self.objects.iter().filter(|object| object.is(kind, name));
        found.next().ok_or(Error::Missing(kind))
    }

    /// Files with objects other than definitions, in their order.
    pub(crate) fn files(&self) -> Vec<&'static str> {
        let mut files: Vec<_> = self.objects.iter().map(|object| object.file).collect();
        files.dedup();
        files.retain(|file| !file.starts_with("crds/"));
        files
    }

    /// Images of all containers.
    pub(crate) fn images(&self) -> BTreeSet<String> {
        let containers = self.objects.iter().filter_map(|object| {
            let list = object.value.pointer("/spec/template/spec/containers");
            list.and_then(Value::as_array)
        });
        containers
            .flatten()
            .filter_map(|container| container["image"].as_str())
            .map(str::to_owned)
            .collect()
    }
}

fn parse(file: &str, text: &str) -> Result<Value, Error> {
    serde_saphyr::from_str(text).map_err(|error| Error::Syntax {
        file: file.to_owned(),
        reason: error.to_string(),
    })
}

/// YAML, keys sorted whatever serde_json's features are in this build.
pub(crate) fn yaml(value: &Value) -> Result<String, Error> {
    let mut sorted = value.clone();
    sorted.sort_all_objects();
    serde_saphyr::to_string(&sorted).map_err(|error| Error::Syntax {
        file: "what is made".to_owned(),
        reason: error.to_string(),
    })
}

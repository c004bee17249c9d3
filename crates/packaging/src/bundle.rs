//! The bundle of the Operator Lifecycle Manager: the operator alone. OLM
//! installs no DaemonSets and no policies; `deploy/overlays/nodes` has them.
//! <https://olm.operatorframework.io/docs/tasks/creating-operator-bundle/>

use serde_json::{Value, json};

use crate::source::{NAMESPACE, Object, Source, yaml};
use crate::{Error, Files};

const HEAD: &str = "# Generated from deploy/ by `cargo xtask deploy`.\n";
const VERSION: &str = env!("CARGO_PKG_VERSION");
const PACKAGE: &str = "bulkhead-operator";
const OPERATOR: &str = "bulkhead-operator";
const CHANNEL: &str = "stable";

pub(crate) fn render(source: &Source) -> Result<Files, Error> {
    let mut files = Files::new();
    let mut add = |name: &str, text: String| {
        files.insert(format!("olm/{name}").into(), text);
    };
    let version = format!("{HEAD}{}", yaml(&version(source)?)?);
    add(
        "manifests/bulkhead-operator.clusterserviceversion.yaml",
        version,
    );
    for (file, text) in &source.crds {
        let name = file.rsplit('/').next().unwrap_or(file);
        add(&format!("manifests/{name}"), text.clone());
    }
    let mut budget = source.find("PodDisruptionBudget", OPERATOR)?.value.clone();
    // The namespace is the subscription's.
    if let Some(metadata) = budget["metadata"].as_object_mut() {
        metadata.remove("namespace");
    }
    let budget = format!("{HEAD}{}", yaml(&budget)?);
    add("manifests/poddisruptionbudget.yaml", budget);
    let labels = labels();
    let annotations = json!({ "annotations": Value::Object(labels.clone().into_iter()
        .map(|(key, value)| (key.to_owned(), value.into())).collect()) });
    add(
        "metadata/annotations.yaml",
        format!("{HEAD}{}", yaml(&annotations)?),
    );
    add("bundle.Dockerfile", dockerfile(&labels));
    Ok(files)
}

fn labels() -> Vec<(&'static str, &'static str)> {
    vec![
        (
            "operators.operatorframework.io.bundle.mediatype.v1",
            "registry+v1",
        ),
        (
            "operators.operatorframework.io.bundle.manifests.v1",
            "manifests/",
        ),
        (
            "operators.operatorframework.io.bundle.metadata.v1",
            "metadata/",
        ),
        ("operators.operatorframework.io.bundle.package.v1", PACKAGE),
        ("operators.operatorframework.io.bundle.channels.v1", CHANNEL),
        (
            "operators.operatorframework.io.bundle.channel.default.v1",
            CHANNEL,
        ),
    ]
}

fn dockerfile(labels: &[(&str, &str)]) -> String {
    let mut text = format!("{HEAD}FROM scratch\n");
    for (key, value) in labels {
        text.push_str(&format!("LABEL {key}={value}\n"));
    }
    text.push_str("COPY manifests /manifests/\nCOPY metadata /metadata/\n");
    text
}

/// The ClusterServiceVersion.
fn version(source: &Source) -> Result<Value, Error> {
    let deployment = source.find("Deployment", OPERATOR)?;
    let (own, everywhere) = rules(source);
    let account = |rules: Vec<Value>| json!([{ "serviceAccountName": OPERATOR, "rules": rules }]);
    let images: Vec<_> = source
        .images()
        .into_iter()
        .map(|image| json!({ "name": short(&image), "image": image }))
        .collect();
    let modes = [
        ("OwnNamespace", false),
        ("SingleNamespace", false),
        ("MultiNamespace", false),
        ("AllNamespaces", true),
    ];
    let modes: Vec<_> = modes
        .iter()
        .map(|(kind, supported)| json!({ "type": kind, "supported": supported }))
        .collect();
    Ok(json!({
        "apiVersion": "operators.coreos.com/v1alpha1",
        "kind": "ClusterServiceVersion",
        "metadata": {
            "name": format!("{PACKAGE}.v{VERSION}"),
            "annotations": {
                "alm-examples": format!("[{}]", sorted(&source.sample)),
                "capabilities": "Seamless Upgrades",
                "categories": "OpenShift Optional",
                "containerImage": deployment.text("/spec/template/spec/containers/0/image"),
                "description": "Runs pods in virtual machines of their own",
                "operators.operatorframework.io/suggested-namespace": NAMESPACE,
            },
        },
        "spec": {
            "displayName": "Bulkhead",
            "description": DESCRIPTION,
            "version": VERSION,
            "minKubeVersion": "1.30.0",
            "maturity": "alpha",
            "provider": { "name": "Bulkhead" },
            "keywords": ["kata", "sandbox", "runtimeclass", "virtual machine"],
            "installModes": modes,
            "relatedImages": images,
            "customresourcedefinitions": { "owned": owned(source) },
            "install": {
                "strategy": "deployment",
                "spec": {
                    "deployments": [{
                        "name": OPERATOR,
                        "label": deployment.value["metadata"]["labels"],
                        "spec": deployment.value["spec"],
                    }],
                    "permissions": account(own),
                    "clusterPermissions": account(everywhere),
                },
            },
        },
    }))
}

const DESCRIPTION: &str = "Installs, verifies, upgrades and removes the runtime on a cluster's nodes, as a \
     KataConfig asks. Pods name it by `runtimeClassName: kata`. The agents of the nodes are not part of this \
     bundle: apply deploy/overlays/nodes beside it.";

/// What the operator may do: in its own namespace, and everywhere. A role in
/// another namespace becomes the latter, since OLM knows no third.
fn rules(source: &Source) -> (Vec<Value>, Vec<Value>) {
    let (mut own, mut everywhere) = (Vec::new(), Vec::new());
    for object in &source.objects {
        if !object.text("/metadata/name").starts_with(OPERATOR) {
            continue;
        }
        let rules = object.value["rules"].as_array().cloned();
        let rules = rules.unwrap_or_default();
        match (object.text("/kind"), object.text("/metadata/namespace")) {
            ("Role", NAMESPACE) => own.extend(rules),
            ("Role" | "ClusterRole", _) => everywhere.extend(rules),
            _ => {}
        }
    }
    (own, everywhere)
}

fn owned(source: &Source) -> Vec<Value> {
    let definition = |object: &Object| {
        json!({
            "name": object.text("/metadata/name"),
            "kind": object.text("/spec/names/kind"),
            "version": object.text("/spec/versions/0/name"),
            "displayName": object.text("/spec/names/kind"),
            "description": object.text("/spec/versions/0/schema/openAPIV3Schema/description"),
        })
    };
    let objects = source.objects.iter();
    let definitions = objects.filter(|object| object.file.starts_with("crds/"));
    definitions.map(definition).collect()
}

/// An image's name without its registry and version.
fn short(image: &str) -> &str {
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split([':', '@']).next().unwrap_or(name)
}

fn sorted(value: &Value) -> Value {
    let mut value = value.clone();
    value.sort_all_objects();
    value
}

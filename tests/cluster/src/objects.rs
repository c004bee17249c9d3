//! The objects of `deploy/`: read, applied, taken away.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PropagationPolicy};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::runtime::conditions::is_deleted;
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::{Cli, Error};

/// Who writes.
const MANAGER: &str = "bulkhead-cluster-e2e";

/// What is applied, in this order, and taken away in the reverse one.
const FILES: [&str; 9] = [
    "crds/kataconfigs.yaml",
    "crds/katanodes.yaml",
    "operator/rbac.yaml",
    "operator/network.yaml",
    "node-agent/rbac.yaml",
    "node-agent/policy.yaml",
    "node-agent/network.yaml",
    "policies/host-namespaces.yaml",
    // What runs, at last.
    "operator/deployment.yaml",
];
const AGENT: &str = "node-agent/daemonset.yaml";

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

/// The objects of a file of `deploy/`.
fn read(file: &str) -> Result<Vec<Value>, Error> {
    let path = deploy().join(file);
    let shown = || path.display().to_string();
    let text = std::fs::read_to_string(&path).map_err(Error::local(shown()))?;
    let parts = text.split("\n---\n");
    parts
        .map(|part| serde_saphyr::from_str(part).map_err(Error::local(shown())))
        .collect()
}

/// Everything that is applied, with the images that were given.
pub(crate) fn all(cli: &Cli) -> Result<Vec<DynamicObject>, Error> {
    let mut objects = Vec::new();
    for file in FILES.into_iter().chain([AGENT]) {
        for mut object in read(file)? {
            adapt(&mut object, cli);
            let object = serde_json::from_value(object).map_err(Error::local(file))?;
            objects.push(object);
        }
    }
    Ok(objects)
}

/// Its image, and for the agents the nodes that are tried.
fn adapt(object: &mut Value, cli: &Cli) {
    let agent = object["kind"] == "DaemonSet";
    let image = match (agent, object["kind"] == "Deployment") {
        (true, _) => &cli.node_agent_image,
        (_, true) => &cli.operator_image,
        _ => return,
    };
    let spec = &mut object["spec"]["template"]["spec"];
    if let Some(image) = image {
        spec["containers"][0]["image"] = json!(image);
    }
    if agent {
        spec["nodeSelector"][crate::story::CHOSEN] = json!("true");
        if let Some(args) = spec["containers"][0]["args"].as_array_mut() {
            args.extend(cli.agent_args.iter().map(|arg| json!(arg)));
        }
    }
}

/// What an object is called in messages.
pub(crate) fn shown(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("", |types| &types.kind);
    match object.namespace() {
        Some(namespace) => format!("{kind} {namespace}/{}", object.name_any()),
        None => format!("{kind} {}", object.name_any()),
    }
}

/// The API of an object's kind.
async fn api(client: &Client, object: &DynamicObject) -> Result<Api<DynamicObject>, Error> {
    let types = object.types.clone().unwrap_or_default();
    let kind = GroupVersionKind::try_from(&types).map_err(Error::local(shown(object)))?;
    let failed = Error::api(format!("tell about the kind {}", kind.kind));
    let (resource, capabilities) = pinned_kind(client, &kind).await.map_err(failed)?;
    Ok(match (&capabilities.scope, object.namespace()) {
        (Scope::Namespaced, Some(namespace)) => {
            Api::namespaced_with(client.clone(), &namespace, &resource)
        }
        _ => Api::all_with(client.clone(), &resource),
    })
}

/// Whether an object, or its whole kind, is there.
pub(crate) async fn is_there(client: &Client, object: &DynamicObject) -> Result<bool, Error> {
    let api = match api(client, object).await {
        Err(Error::Api { source, .. }) if absent(&source) => return Ok(false),
        api => api?,
    };
    let found = api.get_metadata_opt(&object.name_any()).await;
    let found = found.map_err(Error::api(format!("tell about {}", shown(object))))?;
    Ok(found.is_some())
}

/// A kind or a group that is not served.
fn absent(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 404,
        kube::Error::Discovery(_) => true,
        _ => false,
    }
}

/// Rules in CEL, which API servers before 1.25 take for a mistake.
const RULES: &str = "x-kubernetes-validations";

/// Takes away what an older API server does not know; what that was. A cluster as
/// old does not enforce it, which is all that it misses.
pub(crate) async fn suit(
    client: &Client,
    objects: &mut Vec<DynamicObject>,
) -> Result<Vec<String>, Error> {
    let mut gone = Vec::new();
    let mut kept = Vec::new();
    for object in objects.drain(..) {
        match api(client, &object).await {
            Err(Error::Api { source, .. }) if absent(&source) => gone.push(shown(&object)),
            api => {
                api?;
                kept.push(object);
            }
        }
    }
    *objects = kept;
    let version = client.apiserver_version().await;
    let version = version.map_err(Error::api("tell its version"))?;
    let minor = version.minor.trim_end_matches('+').parse();
    if version.major == "1" && minor.is_ok_and(|minor: u32| minor < 25) {
        for object in objects {
            strip(&mut object.data);
        }
        gone.push(format!("the fields `{RULES}`, and defaults that are empty"));
    }
    Ok(gone)
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove(RULES);
            // An empty word as a default is read as null when it is applied.
            if map.get("default").is_some_and(|word| word == "") {
                map.remove("default");
            }
            map.values_mut().for_each(strip);
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}

/// Makes it as it is written.
pub(crate) async fn apply(client: &Client, object: &DynamicObject) -> Result<(), Error> {
    let api = api(client, object).await?;
    let params = PatchParams::apply(MANAGER).force();
    let failed = Error::api(format!("apply {}", shown(object)));
    let name = object.name_any();
    api.patch(&name, &params, &Patch::Apply(object))
        .await
        .map_err(failed)?;
    if object
        .types
        .as_ref()
        .is_some_and(|types| types.kind == "CustomResourceDefinition")
    {
        // Its kind is needed next.
        let established = |object: Option<&DynamicObject>| {
            let conditions = object.and_then(|own| own.data["status"]["conditions"].as_array());
            let mut conditions = conditions.into_iter().flatten();
            conditions.any(|own| own["type"] == "Established" && own["status"] == "True")
        };
        let wait = await_condition(api, &name, established);
        let late = |_| Error::Wrong(format!("{} is not established", shown(object)));
        let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
        waited
            .map_err(late)?
            .map_err(|error| Error::Wrong(error.to_string()))?;
    }
    Ok(())
}

/// Takes it away, and waits until it is.
pub(crate) async fn remove(
    client: &Client,
    object: &DynamicObject,
    patience: Duration,
) -> Result<(), Error> {
    let api = match api(client, object).await {
        Err(Error::Api { source, .. }) if absent(&source) => return Ok(()),
        api => api?,
    };
    let name = object.name_any();
    let Some(there) = api
        .get_opt(&name)
        .await
        .map_err(Error::api(format!("tell about {}", shown(object))))?
    else {
        return Ok(());
    };
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..DeleteParams::default()
    };
    match api.delete(&name, &params).await {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        deleted => deleted.map_err(Error::api(format!("delete {}", shown(object))))?,
    };
    let uid = there.uid().unwrap_or_default();
    let wait = await_condition(api, &name, is_deleted(&uid));
    match tokio::time::timeout(patience, wait).await {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::Late {
            what: format!("the end of {}", shown(object)),
            seconds: patience.as_secs(),
            seen: "it is still there".to_owned(),
        }),
    }
}

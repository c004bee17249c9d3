//! The server as kube-rs sees it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod access;
mod objects;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use bulkhead_apiserver::{Effect, Fault, Options, Server};
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
    WatchEvent, WatchParams,
};
use kube::core::{GroupVersionKind, PartialObjectMeta};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Client, Config, Error};
use serde_json::{Value, json};

async fn server() -> (Server, Client) {
    let server = Server::start(Options::default()).await.unwrap();
    let client = client(&server, None);
    (server, client)
}

fn client(server: &Server, user: Option<&str>) -> Client {
    let mut config = Config::new(server.url().parse().unwrap());
    config.auth_info.impersonate = user.map(str::to_owned);
    Client::try_from(config).unwrap()
}

fn node(name: &str) -> Node {
    serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap()
}

fn definition() -> Value {
    let rule = |rule: &str, message: &str| json!({ "rule": rule, "message": message });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "boats.sea.example" },
        "spec": {
            "group": "sea.example", "scope": "Namespaced",
            "names": { "plural": "boats", "kind": "Boat" },
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": { "type": "object", "required": ["spec"],
                    "properties": {
                        "spec": { "type": "object",
                            "x-kubernetes-validations": [
                                rule("self.least <= self.most", "least is at most most"),
                                rule("self.hull == oldSelf.hull", "a hull stays"),
                            ],
                            "properties": {
                                "least": { "type": "integer", "default": 1 },
                                "most": { "type": "integer", "maximum": 100 },
                                "hull": { "type": "string", "default": "oak",
                                          "enum": ["oak", "steel"] },
                                "rooms": { "type": "array", "x-kubernetes-list-type": "map",
                                    "x-kubernetes-list-map-keys": ["name"],
                                    "items": { "type": "object", "required": ["name"],
                                        "properties": {
                                            "name": { "type": "string" },
                                            "beds": { "type": "integer" },
                                        }}},
                            }},
                        "status": { "type": "object", "properties": {
                            "speed": { "type": "integer" } }},
                    }}},
            }],
        },
    })
}

fn boats(client: Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("sea.example", "v1", "Boat");
    Api::namespaced_with(client, "default", &ApiResource::from_gvk(&kind))
}

fn boat(spec: &Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "sea.example/v1", "kind": "Boat", "metadata": { "name": "a" }, "spec": spec,
    }))
    .unwrap()
}

/// What the server answered.
fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> (u16, String, String) {
    match result {
        Err(Error::Api(status)) => (status.code, status.reason, status.message),
        other => panic!("{other:?}"),
    }
}

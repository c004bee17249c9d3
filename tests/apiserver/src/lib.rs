//! A Kubernetes API server in memory, for tests of the operator: real HTTP on
//! the loopback interface, so that kube-rs and `kubectl` work against it.
//!
//! ```text
//!   http ── route, query, rbac, faults ──▶ cluster (the API's rules; no IO)
//!     │                                       │  schema, cel, patch, apply, admission
//!     └── watch, table, discovery ◀────────── store (objects, versions, history)
//! ```
//!
//! ```
//! use bulkhead_apiserver::{Fault, Options, Server};
//! use serde_json::json;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::start(Options::default()).await?;
//! server.load(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "a" } }))?;
//! server.faults().add(Fault::status(503).on("patch", "nodes").times(1));
//! let client = kube::Client::try_from(kube::Config::new(server.url().parse()?))?;
//! let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(client);
//! assert!(nodes.get("a").await.is_ok());
//! server.edit("", "nodes", ("", "a"), |node| node["spec"]["unschedulable"] = json!(true))?;
//! assert_eq!(server.objects("", "nodes")[0]["spec"]["unschedulable"], true);
//! assert_eq!(server.requests()[0].verb, "get");
//! # Ok(())
//! # }
//! ```
//!
//! What it does not do is written in `docs/design/0050-test-api-server.md`.

mod admission;
mod apply;
mod cel;
pub mod cluster;
mod discovery;
mod failure;
mod faults;
mod fields;
mod http;
mod lists;
mod object;
pub mod patch;
pub mod query;
mod rbac;
pub mod resource;
mod route;
pub mod schema;
mod seed;
pub mod selector;
mod server;
pub mod store;
mod table;
mod watch;

pub use failure::{Cause, Failure};
pub use faults::{Effect, Fault};
pub use server::{Options, Recorded, Server, Trouble};
